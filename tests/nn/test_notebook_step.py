"""Whole runs of training steps: against torch.optim.SGD, and against a loop over single samples."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlp_lightning.nn import MLP, SoftmaxCrossEntropy

SIZES = (12, 16, 9, 5)
STEPS = 100
# In float32 the two sum in another order, and 100 steps multiply that rounding (6e-8) by some tens.
PARITY_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
LOOP_TOLERANCE = 1e-12


def hand_step(net: MLP, loss: SoftmaxCrossEntropy, x: Tensor, y: Tensor, learning_rate: float) -> None:
    logits, cache = net.forward(x)
    _, loss_cache = loss.forward(logits, y)
    net.backward(loss.backward(loss_cache), cache)
    net.flat.add_(net.flat_grad, alpha=-learning_rate)


def minibatch(batch: int, width: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, width, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (batch,), generator=generator)


Vector = NDArray[np.float64]


def notebook_batch(
    weights: list[Vector], biases: list[Vector], activation: str, x: Vector, y: NDArray[np.int64], learning_rate: float
) -> None:
    """The notebook's step, one sample and one vector at a time, on the first ⌈0.7·n⌉ samples of the batch."""
    f, slope = {
        "sigmoid": (lambda z: 1 / (1 + math.e**-z), lambda a: a * (1 - a)),
        "tanh": (np.tanh, lambda a: 1 - a**2),
        "relu": (lambda z: np.where(z > 0, z, 0.0), lambda a: np.where(a > 0, 1.0, 0.0)),
    }[activation]
    weight_sums, bias_sums = [np.zeros_like(w) for w in weights], [np.zeros_like(b) for b in biases]
    for sample in range(math.ceil(0.7 * len(x))):
        outputs = [x[sample]]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            outputs.append(f(weight @ outputs[-1] + bias))
        scores = np.exp(weights[-1] @ outputs[-1] + biases[-1])
        delta = scores / scores.sum()
        delta[y[sample]] -= 1
        for k in reversed(range(len(weights))):
            weight_sums[k] += np.outer(delta, outputs[k])
            bias_sums[k] += delta
            delta = slope(outputs[k]) * (weights[k].T @ delta) if k else delta
    for k in range(len(weights)):
        weights[k] -= learning_rate * weight_sums[k]
        biases[k] -= learning_rate * bias_sums[k]


@pytest.mark.parametrize("init", ["glorot_uniform", "he_notebook"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_the_notebooks_recipe_sample_by_sample(assert_oracle, activation, init):
    batch_size, samples, learning_rate = 16, 75, 0.01  # four whole batches and one of 11
    net = MLP((20, 12, 9, 10), activation, init, dtype=torch.float64)
    start = net.flat.clone()
    x, y = minibatch(samples, 20, 10, seed=0)
    weights = [layer.weight.numpy().copy() for layer in net.layers]
    biases = [layer.bias.numpy().copy() for layer in net.layers]
    loss = SoftmaxCrossEntropy("sum")
    for batch_x, batch_y in zip(x.split(batch_size), y.split(batch_size), strict=True):
        trained = math.ceil(0.7 * len(batch_x))
        hand_step(net, loss, batch_x[:trained], batch_y[:trained], learning_rate)
        notebook_batch(weights, biases, activation, batch_x.numpy(), batch_y.numpy(), learning_rate)
        for k, layer in enumerate(net.layers):
            assert_oracle(f"layers.{k}.weight", layer.weight, torch.from_numpy(weights[k]), LOOP_TOLERANCE)
            assert_oracle(f"layers.{k}.bias", layer.bias, torch.from_numpy(biases[k]), LOOP_TOLERANCE)
    assert (net.flat - start).abs().max() > 0.01
