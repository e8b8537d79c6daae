"""The L1 penalty on weights: a pull of constant strength towards 0, which sets small weights to exactly 0."""

import torch
from torch import Tensor

from mlp_lightning.optim.ranges import require_nonnegative


def soft_threshold_(weights: Tensor, threshold: float, memory: Tensor) -> None:
    """w ← sign(w) · max(|w| − t, 0), entry by entry (forward-backward splitting, Duchi & Singer 2009, eq. 19).

    With t = η λ this is the proximal step that follows a gradient step on a loss plus λ ‖w‖₁:

        argmin_u  ½ (u − w)² + t |u|        whose optimality is u − w + t s = 0 with s in the subgradient ∂|u|

    which gives u = w − t for w > t, u = w + t for w < −t, and u = 0 between. A subgradient step w − t sign(w) would
    step over 0 and back for ever; this one ends there. Like AdamW's decay it stands apart from the gradient: λ is
    multiplied by the learning rate and not divided by an adaptive rule's denominators.

    Args:
        weights: changed in place.
        threshold: t ≥ 0.
        memory: of the weights' shape, dtype and device, overwritten.

    Raises:
        ValueError: ``threshold`` outside its range.
    """
    require_nonnegative("threshold", threshold)
    threshold = min(threshold, torch.finfo(weights.dtype).max)
    # w − min(max(w, −t), t): 0 exactly where |w| ≤ t, and NaN where w is.
    weights.sub_(torch.clamp(weights, -threshold, threshold, out=memory))
