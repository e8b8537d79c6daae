"""One training step as each contender takes it: ``step(x, y)`` changes the weights once, and returns nothing."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from networks import hand_network, torch_network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlp_lightning.data import Batch
from mlp_lightning.engines.choice import choose
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.nn import SoftmaxCrossEntropy
from mlp_lightning.optim import SGD, Adam

# So small that a minibatch which comes again and again is not learnt by heart: gradients would sink into denormal
# numbers, which the processor multiplies slowly.
LR = 1e-6


MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Contender(NamedTuple):
    """A step, with what holds its weights and its optimizer's state (None for the bare products).

    ``run(x, y, n)`` makes n steps in a row, where that is anything but n calls of ``step``.
    """

    step: Callable[[Tensor, Tensor], None]
    network: nn.Module | None = None
    optimizer: torch.optim.Optimizer | None = None
    run: Callable[[Tensor, Tensor, int], None] | None = None

    def steps(self, x: Tensor, y: Tensor, n: int) -> None:
        """Make n steps in a row."""
        if self.run is not None:
            self.run(x, y, n)
        else:
            for _ in range(n):
                self.step(x, y)


def gemms(sizes: Sequence[int]) -> Contender:
    """The floor: the matrix products of a step alone, Z = A Wᵀ, dW = dZᵀ A and dA = dZ W, into memory that is kept."""
    layers: list[tuple[Tensor, ...]] = []
    batch_size = 0

    def step(x: Tensor, y: Tensor) -> None:
        nonlocal batch_size
        if len(x) != batch_size:
            batch_size = len(x)
            layers[:] = [
                tuple(torch.rand(shape) for shape in [(h, d), (h, d), *[(len(x), d)] * 2, *[(len(x), h)] * 2])
                for d, h in itertools.pairwise(sizes)
            ]
        for weight, _, a, _, z, _ in layers:
            torch.mm(a, weight.t(), out=z)
        for k, (weight, dweight, a, da, _, dz) in reversed(list(enumerate(layers))):
            torch.mm(dz.t(), a, out=dweight)
            if k > 0:
                torch.mm(dz, weight, out=da)

    return Contender(step)


def hand(sizes: Sequence[int], make_optimizer: MakeOptimizer) -> Contender:
    """The derived gradients, read as in the textbook."""
    network, loss = hand_network(sizes), SoftmaxCrossEntropy()
    optimizer = make_optimizer([network.flat])

    def step(x: Tensor, y: Tensor) -> None:
        logits, cache = network(x)
        _, loss_cache = loss.forward(logits, y)
        network.backward(loss.backward(loss_cache), cache)
        network.flat.grad = network.flat_grad
        optimizer.step()

    return Contender(step, network, optimizer)


def fast(sizes: Sequence[int], make_optimizer: MakeOptimizer, dtype: torch.dtype | None = None) -> Contender:
    """The derived gradients as ``fit`` runs them: in memory that is kept, plain SGD within the products."""
    network = hand_network(sizes)
    optimizer = make_optimizer([network.flat])
    recipe = StepRecipe(network=network, loss=SoftmaxCrossEntropy("sum"), rule=optimizer, products=dtype)
    engine = choose(recipe).engine

    def step(x: Tensor, y: Tensor) -> None:
        with torch.inference_mode():
            engine(Batch(x, y, x, y, len(x)), LR, keep_gradient=False)

    def several(x: Tensor, y: Tensor, n: int) -> None:
        with torch.inference_mode():
            run = len(list(engine.steps([Batch(x, y, x, y, len(x))] * n, [LR] * n, 0)))
        for _ in range(n - run):
            step(x, y)

    return Contender(step, network, optimizer, several if engine.one_by_one is None else None)


def without_zeros(contender: Contender) -> Contender:
    """The same on numbers between 0 and 1 instead of the digits, which are mostly 0 and there passed over."""

    @functools.cache
    def dense(shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))

    return contender._replace(
        step=lambda x, y: contender.step(dense(x.shape), y), run=lambda x, y, n: contender.steps(dense(x.shape), y, n)
    )


def autograd(sizes: Sequence[int], make_optimizer: MakeOptimizer) -> Contender:
    """torch's own layers, gradients and rules."""
    network = torch_network(sizes)
    optimizer = make_optimizer(list(network.parameters()))

    def step(x: Tensor, y: Tensor) -> None:
        loss = cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Contender(step, network, optimizer)


FLOOR = "matrix products alone"

STEPS: dict[str, Callable[[Sequence[int]], Contender]] = {
    FLOOR: gemms,
    "hand, SGD": lambda sizes: hand(sizes, lambda tensors: SGD(tensors, LR)),
    # A further step plugs in here: a function of the widths that returns a Contender.
    "fit's step, SGD": lambda sizes: fast(sizes, lambda tensors: SGD(tensors, LR)),
    "fit's step, SGD, no zeros": lambda sizes: without_zeros(fast(sizes, lambda tensors: SGD(tensors, LR))),
    "fit's step, SGD, bf16-mixed": lambda sizes: fast(sizes, lambda tensors: SGD(tensors, LR), torch.bfloat16),
    "hand, Adam": lambda sizes: hand(sizes, lambda tensors: Adam(tensors, LR)),
    "fit's step, Adam": lambda sizes: fast(sizes, lambda tensors: Adam(tensors, LR)),
    "fit's step, Adam, no zeros": lambda sizes: without_zeros(fast(sizes, lambda tensors: Adam(tensors, LR))),
    "autograd, SGD": lambda sizes: autograd(sizes, lambda tensors: torch.optim.SGD(tensors, LR)),
    "autograd, Adam fused": lambda sizes: autograd(sizes, lambda tensors: torch.optim.Adam(tensors, LR, fused=True)),
}
