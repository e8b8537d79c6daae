"""What an engine asks of whatever computes a network's two passes: forward, and backward layer by layer."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mlp_lightning.nn.flat_storage import Layer
from mlp_lightning.nn.losses import Cache
from mlp_lightning.nn.mlp import MLP
from mlp_lightning.nn.training_pass import TrainingPass

# From how many samples on it pays to skip zeros of a layer's input: where its weights are transposed for every pass,
# where steps leave them transposed, and where such steps have left them.
MANY_ROWS, SOME_ROWS, FEW_ROWS = 32, 4, 1


class LayerDelta(NamedTuple):
    """What the gradient of layer k is made of: dW_k = dZ_kᵀ A_{k−1} and db_k = Σ_i dZ_k."""

    k: int
    # dZ_k ``(B, H)``.
    dz: Tensor
    # A_{k−1} ``(B, D)``, as the layer read it.
    a: Tensor


class LinearStep(NamedTuple):
    """An update inside the product of the gradient: W ← beta W + alpha dW and b ← bias_beta b + alpha db."""

    alpha: float
    beta: float
    bias_beta: float


# dW and db themselves, in the place of W and b.
GRADIENT = LinearStep(1.0, 0.0, 0.0)


class Passes(Protocol):
    """The forward and the backward pass of one network.

    ``layers`` are the network's, or views of their copies in ``dtype``, as the last forward pass used them.
    ``norm_gradients`` holds (dγ_k, dβ_k) ``(H,)`` of the layers that the last backward pass has reached.
    """

    network: MLP
    dtype: torch.dtype
    layers: list[Layer]
    norm_gradients: dict[int, tuple[Tensor, Tensor]]

    @property
    def activations(self) -> list[Tensor]:
        """A_k ``(B, H)`` of each hidden layer, as ``forward`` left them; ``backward`` may overwrite them."""

    def forward(self, x: Tensor, training: TrainingPass | None = None) -> Tensor:
        """The logits ``(B, K)`` of inputs ``(B, D)``, in the parameter's dtype; valid until the next call."""

    def backward(self, dlogits: Tensor) -> Iterator[LayerDelta]:
        """The delta of each layer, from the last to the first, for what ``forward`` returned last.

        When a layer's delta is handed out, its weights are no longer needed: they may be changed. The tensors are valid
        until the next one is asked for.
        """

    def write_gradient(self, delta: LayerDelta, *, add: bool = False) -> None:
        """Write dW_k, db_k, dγ_k and dβ_k to ``network.flat_grad``, or add them to what is there."""

    def write_gradients(self, dlogits: Tensor, *, add: bool = False) -> float | None:
        """``write_gradient`` of all layers; the sum over the gradients of all biases where it costs nothing."""

    def update_in_products(self, dlogits: Tensor, step: LinearStep, *, keep_gradient: bool = False) -> float | None:
        """Make a step of all layers without forming the gradient, unless it is to be kept; likewise."""

    def update_in_product(self, delta: LayerDelta, step: LinearStep) -> None:
        """Make a step of one layer inside the product of its gradient."""

    def follow(self) -> None:
        """Let batch norm's running statistics follow the minibatch that ``forward`` saw last, in training."""


class StepLoss(Protocol):
    """The loss of a minibatch in a training step: a ``Loss`` with reduction ``sum``, or its counterpart in C."""

    def normalizer(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """What the mean divides by."""

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[float | Tensor, Cache]:
        """The summed loss, a number or 0-dim, and the cache that ``backward`` takes."""

    def backward(self, cache: Cache, dloss: float | Tensor = 1.0) -> Tensor:
        """dlogits ``(B, K)``, times the incoming ``dloss``."""


class Evaluator(NamedTuple):
    """What evaluates samples with the weights of a network as they are."""

    passes: Passes
    loss: StepLoss

    def __call__(self, x: Tensor, targets: Tensor) -> tuple[Tensor, float | Tensor]:
        """The logits ``(B, K)`` of samples, valid until the next call, and their summed loss."""
        logits = self.passes.forward(x)
        return logits, self.loss.forward(logits, targets)[0]
