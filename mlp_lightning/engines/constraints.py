"""What holds of the weights after every update, one small class each; a recipe has them in order."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from mlp_lightning.nn.mlp import MLP
from mlp_lightning.optim.l1 import soft_threshold_
from mlp_lightning.optim.max_norm import max_norm_


class Constraint(Protocol):
    """A change of the weights after an update, in place."""

    # As the option is called, to say what a fast path cannot do.
    option: ClassVar[str]

    def __call__(self, network: MLP, lr: float) -> None:
        """Constrain the weights after an update of that learning rate."""


class SoftThreshold:
    """The L1 penalty λ Σ|w| on all weights: each moves towards 0 by lr · λ, and stops there.

    Args:
        l1: λ.
    """

    option: ClassVar[str] = "l1"

    def __init__(self, l1: float) -> None:
        self.l1 = l1
        self._memory: Tensor | None = None

    def __call__(self, network: MLP, lr: float) -> None:
        """w ← sign(w) · max(|w| − lr · λ, 0)."""
        weights = network.flat.detach()[: network.weight_numel]
        if self._memory is None or self._memory.device != weights.device:
            # Outside of inference mode, whose tensors could not be written in training.
            with torch.inference_mode(False):
                self._memory = torch.empty_like(weights)
        soft_threshold_(weights, lr * self.l1, self._memory)


class MaxNorm:
    """A largest Euclidean norm of each unit's incoming weights.

    Args:
        max_norm: that norm.
    """

    option: ClassVar[str] = "max_norm"

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def __call__(self, network: MLP, lr: float) -> None:
        """Scale each row of every W to that norm, where it is longer."""
        for layer in network.layers:
            max_norm_(layer.weight, self.max_norm)
