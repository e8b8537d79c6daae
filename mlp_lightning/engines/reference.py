"""The engine ``reference``: each step by the very functions that the guide derives, and nothing else."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.passes import MANY_ROWS, LayerDelta, LinearStep, Passes
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.nn.mlp import MLP
from mlp_lightning.nn.norm import follow_
from mlp_lightning.nn.training_pass import TrainingPass


class ReferencePasses:
    """``MLP.forward`` and ``MLP.backward``.

    Args:
        network: whose passes they are.
    """

    def __init__(self, network: MLP) -> None:
        self.network, self.dtype, self.layers = network, network.flat.dtype, network.layers
        self.norm_gradients: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor, training: TrainingPass | None = None) -> Tensor:
        """The logits ``(B, K)`` of inputs ``(B, D)``."""
        self.layers = self.network.layers
        logits, self._cache = self.network(x, training)
        return logits

    @property
    def activations(self) -> list[Tensor]:
        """A_k ``(B, H)`` of each hidden layer."""
        return [a for _, _, a in self._cache[:-1]]

    def write_gradients(self, dlogits: Tensor, *, add: bool = False) -> float | None:
        """The whole gradient into ``network.flat_grad``, or added to it; None."""
        before = self.network.flat_grad.clone() if add else None
        self.network.backward(dlogits, self._cache)
        if before is not None:
            self.network.flat_grad.add_(before)
        return None

    def backward(self, dlogits: Tensor) -> Iterator[LayerDelta]:
        """The delta of each layer, from the last to the first; the gradient that others left stays."""
        before, deltas = self.network.flat_grad.clone(), list[Tensor]()
        self.network.backward(dlogits, self._cache, deltas=deltas)
        self.norm_gradients = {
            k: (norm.dgamma.clone(), norm.dbeta.clone()) for k, norm in enumerate(self.network.norms)
        }
        self.network.flat_grad.copy_(before)
        for k, dz in zip(reversed(range(len(deltas))), deltas, strict=True):
            yield LayerDelta(k, dz, self._cache[k][0])

    def write_gradient(self, delta: LayerDelta, *, add: bool = False) -> None:
        """dW_k = dZ_kᵀ A_{k−1}, db_k = Σ_i dZ_k, dγ_k and dβ_k into ``network.flat_grad``, or added to it."""
        layer, write = self.network.layers[delta.k], Tensor.add_ if add else Tensor.copy_
        write(layer.dweight, delta.dz.t() @ delta.a)
        write(layer.dbias, delta.dz.sum(0))
        if delta.k in self.norm_gradients:
            norm, (dgamma, dbeta) = self.network.norms[delta.k], self.norm_gradients[delta.k]
            write(norm.dgamma, dgamma)
            write(norm.dbeta, dbeta)

    def update_in_products(self, dlogits: Tensor, step: LinearStep, *, keep_gradient: bool = False) -> float | None:
        """Never asked for: the engine does not update in products."""
        raise AssertionError("the reference forms the gradient")

    def update_in_product(self, delta: LayerDelta, step: LinearStep) -> None:
        """Likewise."""
        raise AssertionError("the reference forms the gradient")

    def follow(self) -> None:
        """Let batch norm's running statistics follow the minibatch that ``forward`` saw last, in training."""
        for norm, cache in zip(self.network.norms, self._cache.norms, strict=True):
            follow_(norm, cache)


class ReferenceEngine(Engine):
    """Forward pass, loss, backward pass and rule, each as its file has it, with memory of its own in every step."""

    name = "reference"
    updates_in_products = False

    @classmethod
    def refuses(cls, recipe: StepRecipe) -> str | None:
        """Why it cannot make these steps, in words; None if it can."""
        if recipe.products is not None and recipe.products != recipe.network.flat.dtype:
            return "its products have the precision of the weights"
        return "overlap_reduction needs the gradient layer by layer" if recipe.workers.overlap else None

    def make_passes(self, network: MLP, products: torch.dtype | None, min_rows_sparse: int = MANY_ROWS) -> Passes:
        """``MLP``'s own."""
        return ReferencePasses(network)
