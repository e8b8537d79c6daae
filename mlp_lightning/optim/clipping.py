"""Gradient clipping, in place and without waiting for the device."""

import torch
from torch import Tensor

from mlp_lightning.nn.lengths import norm_and_scale
from mlp_lightning.optim.ranges import require_positive

# Keeps the quotient finite for a zero gradient; torch.nn.utils.clip_grad_norm_ has the same.
NORM_EPS = 1e-6


def clip_norm_(grad: Tensor, max_norm: float, norm: Tensor | None = None) -> Tensor:
    """g ← g · min(1, c / (‖g‖₂ + 10⁻⁶)): shortened to length c, its direction kept (Pascanu et al. 2013, Algorithm 1).

    A gradient with an infinite or NaN entry becomes NaN, and the returned norm tells. A finite one is shortened also
    where its norm, or the squares in it, are beyond the dtype.

    Args:
        grad: the gradient, of any shape.
        max_norm: c > 0.
        norm: ‖g‖₂, 0-dim, where ``grad`` is but a part of g; None to take it from ``grad``.

    Returns:
        ‖g‖₂ before clipping, as a 0-dim tensor on the gradient's device; infinite where the dtype cannot hold it.

    Raises:
        ValueError: ``max_norm`` outside its range.
    """
    require_positive("max_norm", max_norm)
    scale = None
    if norm is None:
        norm, scale = norm_and_scale(grad)
    if scale is None:
        grad.mul_((max_norm / (norm + NORM_EPS)).clamp_(max=1.0))
        return norm
    grad.div_(scale).mul_(torch.minimum(max_norm / (norm + NORM_EPS / scale), scale))
    return norm * scale


def clip_value_(grad: Tensor, max_value: float) -> None:
    """g ← min(max(g, −c), c), entry by entry; the direction may change.

    Args:
        grad: the gradient, of any shape.
        max_value: c > 0.

    Raises:
        ValueError: ``max_value`` outside its range.
    """
    require_positive("max_value", max_value)
    grad.clamp_(-max_value, max_value)
