"""The networks and the digits that all contenders share, with the same first weights for each."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlp_lightning.data import Dataset, holdout, load_dataset
from mlp_lightning.nn import MLP

SMALL = (784, 100, 10)
NOTEBOOK = (784, 500, 250, 100, 10)
LARGE = (784, 2048, 1024, 512, 10)

TRAINING_IMAGES = 55_000


class Digits(NamedTuple):
    """MNIST as the holdout with seed 0 leaves it: pixels in [0, 1] ``(N, 784)``, labels ``(N,)``."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits(training_images: int = TRAINING_IMAGES) -> Digits:
    data = _mnist()
    n = len(data.train_y)
    indices, _ = holdout(n, n - training_images, seed=0)
    return Digits(data.train_x[indices], data.train_y[indices], data.test_x, data.test_y)


@functools.cache
def _mnist() -> Dataset:
    return load_dataset("mnist", None)


def label(sizes: Sequence[int]) -> str:
    return "-".join(map(str, sizes))


def hand_network(sizes: Sequence[int], seed: int = 0) -> MLP:
    """ReLU units, He's normal weights, zero biases."""
    return MLP(sizes, "relu", "he_normal", generator=torch.Generator().manual_seed(seed))


def first_weights(sizes: Sequence[int], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """(W ``(H, D)``, b ``(H,)``) of each layer of ``hand_network``."""
    return [(layer.weight.clone(), layer.bias.clone()) for layer in hand_network(sizes, seed).layers]


def torch_network(sizes: Sequence[int], seed: int = 0) -> nn.Sequential:
    """The same network as torch's own layers, for autograd."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    set_weights(network, first_weights(sizes, seed))
    return network


@torch.no_grad()
def set_weights(network: nn.Sequential, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, (weight, bias) in zip(linear, weights, strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
