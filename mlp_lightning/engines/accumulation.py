"""Gradients of several minibatches, gathered for one update."""

from typing import Any

import torch
from torch import Tensor

from mlp_lightning.errors import UserError


class Accumulation:
    """How many minibatches were gathered since the last update, and what their mean divides by.

    The gradients are summed where one alone would be written, in the network's flat gradient, on each process that of
    its own shares. With reduction mean the update's gradient is

        g = Σ_i N_i g_i / Σ_i N_i

    where g_i is what minibatch i would give alone, and N_i what its mean divides by: its samples, or their class
    weights. That is the gradient of one minibatch of all the samples, so that each counts alike, also where an epoch
    ends with fewer minibatches or a smaller one. (Lightning's own accumulation takes Σ_i g_i / ``size``, which is the
    same for full minibatches.) With reduction sum it is Σ_i g_i.

    Args:
        size: minibatches in an update, at least 2; an epoch's last ones may be fewer.
        reduction: ``"mean"`` or ``"sum"``.
    """

    def __init__(self, size: int, reduction: str) -> None:
        self.size = size
        self.reduction = reduction
        self.count = 0
        self._divisor: float | Tensor = 0.0

    def add(self, normalizer: float | Tensor) -> None:
        """Count a minibatch, and what its mean divides by over all processes."""
        self._divisor = self._divisor + normalizer
        self.count += 1

    def finish_(self, gradient: Tensor) -> None:
        """Make the sum over minibatches and processes the update's gradient, in place, and start anew."""
        if self.reduction == "mean":
            gradient.div_(self._divisor)
        self.count, self._divisor = 0, 0.0

    def state(self, gradient: Tensor) -> dict[str, Any]:
        """What a checkpoint keeps between two updates; ``gradient`` is the sum so far, over all processes."""
        divisor = self._divisor.clone() if isinstance(self._divisor, Tensor) else self._divisor
        return {"size": self.size, "count": self.count, "divisor": divisor, "gradient": gradient}

    def take(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a checkpoint's ``state``, whose gradient is another's to take."""
        self.count, self._divisor = state["count"], state["divisor"]
        if isinstance(self._divisor, Tensor):
            self._divisor = self._divisor.to(device)


def check_size(size: int, state: dict[str, Any]) -> None:
    """Refuse to go on between two updates with updates of another size; raises UserError."""
    if state["size"] != size:
        raise UserError(
            f"trainer.accumulate_grad_batches: got {size}, but the checkpoint of --ckpt_path was made after "
            f"{state['count']} of the {state['size']} minibatches of an update; go on with {state['size']}"
        )
