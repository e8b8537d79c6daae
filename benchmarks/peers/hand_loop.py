"""A bare loop over the derived gradients, as the README shows it: the textbook's classes and nothing around them."""

import torch
from networks import Digits, hand_network

from mlp_lightning.data import Batches
from mlp_lightning.nn import SoftmaxCrossEntropy
from mlp_lightning.optim import SGD, Adam
from peers.peer import Peer, Task


class HandLoop(Peer):
    """``MLP``, ``SoftmaxCrossEntropy``, ``SGD`` or ``Adam``, ``Batches``."""

    def __init__(self, task: Task, data: Digits) -> None:
        super().__init__(task, data)
        self._rates = task.rates().tolist()
        self._loss = SoftmaxCrossEntropy()

    def start(self, seed: int) -> None:
        """Everything anew."""
        self._network = hand_network(self.task.sizes, seed)
        rule = SGD if self.task.optimizer == "sgd" else Adam
        self._optimizer = rule([self._network.flat], lr=self.task.lr)
        data = self.data
        self._batches = Batches(data.train_x, data.train_y, self.task.batch_size, shuffle=True, seed=seed)

    def epoch(self) -> None:
        """Forward, loss, backward, update."""
        network, loss = self._network, self._loss
        self._batches.set_epoch(self.epochs_done)
        for batch, lr in zip(self._batches, self._rates[self.epochs_done], strict=True):
            logits, cache = network(batch.x)
            _, loss_cache = loss.forward(logits, batch.y)
            network.backward(loss.backward(loss_cache), cache)
            network.flat.grad = network.flat_grad
            self._optimizer.param_groups[0]["lr"] = lr
            self._optimizer.step()

    @torch.no_grad()
    def accuracy(self) -> float:
        """By the same forward pass."""
        return (self._network(self.data.test_x)[0].argmax(1) == self.data.test_y).float().mean().item()
