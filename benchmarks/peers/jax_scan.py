"""JAX: an epoch is one compiled ``lax.scan`` over minibatches, with its permutation drawn and gathered inside.

Set up for speed: parameters and optimizer state are donated; four steps an iteration of the loop (``unroll``), which
saved a tenth at batch 64; the smaller last minibatch follows the scan in the same program.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from networks import Digits, first_weights

from peers.peer import Peer, Task

UNROLL = 4
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

Parameters = list[tuple[jax.Array, jax.Array]]


def logits(parameters: Parameters, x: jax.Array) -> jax.Array:
    for weight, bias in parameters[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = parameters[-1]
    return x @ weight + bias


def mean_loss(parameters: Parameters, x: jax.Array, y: jax.Array) -> jax.Array:
    log_probabilities = jax.nn.log_softmax(logits(parameters, x))
    return -jnp.take_along_axis(log_probabilities, y[:, None], 1).mean()


def sgd(parameters: Any, state: Any, gradient: Any, lr: jax.Array) -> tuple[Any, Any]:
    return jax.tree.map(lambda p, g: p - lr * g, parameters, gradient), state


def adam(parameters: Any, state: Any, gradient: Any, lr: jax.Array) -> tuple[Any, Any]:
    first, second, t = state
    t = t + 1
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradient)
    c1, c2 = 1 - BETA1**t, 1 - BETA2**t

    def moved(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return p - lr * (m / c1) / (jnp.sqrt(v / c2) + EPS)

    return jax.tree.map(moved, parameters, first, second), (first, second, t)


class JaxScan(Peer):
    """No library but JAX."""

    def __init__(self, task: Task, data: Digits) -> None:
        super().__init__(task, data)
        self._x, self._y = jnp.asarray(data.train_x.numpy()), jnp.asarray(data.train_y.numpy().astype(np.int32))
        self._test_x, self._test_y = jnp.asarray(data.test_x.numpy()), jnp.asarray(data.test_y.numpy())
        self._rates = jnp.asarray(task.rates())
        self._logits = jax.jit(logits)
        rule = sgd if task.optimizer == "sgd" else adam
        n, batch_size = len(data.train_y), task.batch_size
        whole = n // batch_size

        @functools.partial(jax.jit, donate_argnums=0)
        def epoch(carry: Any, key: jax.Array, rates: jax.Array, x: jax.Array, y: jax.Array) -> Any:
            def step(carry: Any, minibatch: Any) -> tuple[Any, None]:
                (parameters, state), (indices, lr) = carry, minibatch
                gradient = jax.grad(mean_loss)(parameters, x[indices], y[indices])
                return rule(parameters, state, gradient, lr), None

            order = jax.random.permutation(key, n)
            batches = order[: whole * batch_size].reshape(whole, batch_size)
            carry, _ = jax.lax.scan(step, carry, (batches, rates[:whole]), unroll=UNROLL)
            return step(carry, (order[whole * batch_size :], rates[-1]))[0] if n % batch_size else carry

        self._epoch = epoch

    def start(self, seed: int) -> None:
        """Weights as ``(D, H)``, the way JAX multiplies."""
        weights = first_weights(self.task.sizes, seed)
        parameters = [(jnp.array(w.numpy().T), jnp.array(b.numpy())) for w, b in weights]
        zeros = functools.partial(jax.tree.map, jnp.zeros_like, parameters)
        state = () if self.task.optimizer == "sgd" else (zeros(), zeros(), jnp.zeros(()))
        self._carry = jax.block_until_ready((parameters, state))
        self._key = jax.random.key(seed)

    def epoch(self) -> None:
        """One call."""
        self._key, key = jax.random.split(self._key)
        self._carry = self._epoch(self._carry, key, self._rates[self.epochs_done], self._x, self._y)
        jax.block_until_ready(self._carry)

    def accuracy(self) -> float:
        """Compiled as well."""
        predicted = self._logits(self._carry[0], self._test_x).argmax(1)
        return float((predicted == self._test_y).mean())
