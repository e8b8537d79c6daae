"""torch's autograd on tensors in memory: eager, compiled by ``torch.compile``, or under bf16 autocast.

Set up for speed: minibatches by ``index_select`` from tensors, no DataLoader; the fused kernel for Adam (for SGD it
made no difference); ``set_to_none``, torch's default. What is compiled is forward and backward; compiling the update as
well was slower here than its eager kernels. ``dynamic=False`` gives the smaller last minibatch code of its own.
"""

from typing import Literal

import torch
from networks import Digits, first_weights, set_weights, torch_network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from peers.peer import Peer, Task


def make_optimizer(network: nn.Module, task: Task) -> torch.optim.Optimizer:
    if task.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), task.lr)
    return torch.optim.Adam(network.parameters(), task.lr, fused=True)


class Autograd(Peer):
    """``nn.Sequential``, ``loss.backward()`` and ``torch.optim``."""

    def __init__(self, task: Task, data: Digits, mode: Literal["eager", "compiled", "bf16"] = "eager") -> None:
        super().__init__(task, data)
        self._network = torch_network(task.sizes)
        self._rates = task.rates().tolist()

        def loss(x: Tensor, y: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
                return cross_entropy(self._network(x), y)

        self._loss = torch.compile(loss, dynamic=False) if mode == "compiled" else loss

    def start(self, seed: int) -> None:
        """Copied into the tensors that the compiled code knows."""
        torch.manual_seed(seed)
        set_weights(self._network, first_weights(self.task.sizes, seed))
        self._optimizer = make_optimizer(self._network, self.task)

    def epoch(self) -> None:
        """The usual loop."""
        order = torch.randperm(len(self.data.train_y))
        batches = zip(order.split(self.task.batch_size), self._rates[self.epochs_done], strict=True)
        for indices, lr in batches:
            loss = self._loss(self.data.train_x.index_select(0, indices), self.data.train_y.index_select(0, indices))
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.param_groups[0]["lr"] = lr
            self._optimizer.step()

    @torch.no_grad()
    def accuracy(self) -> float:
        """Eager, in fp32."""
        return (self._network(self.data.test_x).argmax(1) == self.data.test_y).float().mean().item()
