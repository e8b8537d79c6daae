"""Keras's ``model.fit`` on the JAX backend, compiled by XLA; 50 steps an execution saved a fifth at batch 64."""

import os

# Keras reads its backend when it is imported.
os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from networks import Digits, first_weights

from peers.peer import Peer, Task

STEPS_PER_EXECUTION = 50


class Rates(keras.optimizers.schedules.LearningRateSchedule):
    """The task's learning rate by step."""

    def __init__(self, rates: np.ndarray) -> None:
        self._rates = keras.ops.convert_to_tensor(rates)

    def __call__(self, step: object) -> object:
        """Looked up."""
        return keras.ops.take(self._rates, step)


class KerasFit(Peer):
    """``Sequential`` of ``Dense`` layers."""

    def __init__(self, task: Task, data: Digits) -> None:
        super().__init__(task, data)
        self._x, self._y = data.train_x.numpy(), data.train_y.numpy().astype(np.int32)
        self._test_x = data.test_x.numpy()
        hidden = [keras.layers.Dense(width, "relu") for width in task.sizes[1:-1]]
        self._model = keras.Sequential([keras.Input(task.sizes[:1]), *hidden, keras.layers.Dense(task.sizes[-1])])
        lr = task.lr if task.schedule == "constant" else Rates(task.rates().ravel())
        rule = keras.optimizers.SGD if task.optimizer == "sgd" else keras.optimizers.Adam
        # epsilon as in the paper and everywhere else; Keras's own default is 1e-7.
        self._optimizer = rule(lr) if task.optimizer == "sgd" else rule(lr, epsilon=1e-8)
        self._model.compile(
            self._optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=True,
            steps_per_execution=STEPS_PER_EXECUTION,
        )
        self._optimizer.build(self._model.trainable_variables)
        self._fresh = [np.array(variable) for variable in self._optimizer.variables]

    def start(self, seed: int) -> None:
        """Into the variables that the compiled code knows; kernels are ``(D, H)``."""
        keras.utils.set_random_seed(seed)
        weights = first_weights(self.task.sizes, seed)
        self._model.set_weights([part for w, b in weights for part in (w.numpy().T, b.numpy())])
        for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(value)

    def epoch(self) -> None:
        """``fit`` shuffles."""
        self._model.fit(self._x, self._y, batch_size=self.task.batch_size, epochs=1, verbose=0)

    def accuracy(self) -> float:
        """By ``predict``."""
        predicted = self._model.predict(self._test_x, batch_size=2000, verbose=0).argmax(1)
        return float((predicted == self.data.test_y.numpy()).mean())
