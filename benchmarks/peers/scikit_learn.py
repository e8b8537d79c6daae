"""scikit-learn's ``MLPClassifier``, in float32, an epoch a call of ``partial_fit``.

It has no schedule for Adam: its learning rate is set before each epoch to the schedule's mean over it.
"""

import numpy as np
from networks import Digits, first_weights
from sklearn.neural_network import MLPClassifier

from peers.peer import Peer, Task


class ScikitLearn(Peer):
    """Plain minibatches: no momentum, no L2 penalty."""

    def __init__(self, task: Task, data: Digits) -> None:
        super().__init__(task, data)
        self._x, self._y = data.train_x.numpy(), data.train_y.numpy()
        self._rates = task.rates().mean(1)

    def start(self, seed: int) -> None:
        """It wants to draw its own weights at its first call, on one minibatch here; then it gets those of all."""
        task = self.task
        self._model = MLPClassifier(
            task.sizes[1:-1],
            solver=task.optimizer,
            batch_size=task.batch_size,
            learning_rate_init=task.lr,
            momentum=0.0,
            alpha=0.0,
            random_state=seed,
        )
        few = slice(task.batch_size)
        self._model.partial_fit(self._x[few], self._y[few], classes=np.arange(task.sizes[-1]))
        for k, (weight, bias) in enumerate(first_weights(task.sizes, seed)):
            self._model.coefs_[k] = np.ascontiguousarray(weight.numpy().T)
            self._model.intercepts_[k] = bias.numpy()
        # With the optimizer gone, the next call makes a fresh one.
        del self._model._optimizer

    def epoch(self) -> None:
        """Shuffles by itself."""
        # The first for the optimizer that the first call makes, the second for the one that is there.
        self._model.learning_rate_init = rate = float(self._rates[self.epochs_done])
        if hasattr(self._model, "_optimizer"):
            self._model._optimizer.learning_rate_init = rate
        self._model.partial_fit(self._x, self._y)

    def accuracy(self) -> float:
        """By ``score``."""
        return float(self._model.score(self.data.test_x.numpy(), self.data.test_y.numpy()))
