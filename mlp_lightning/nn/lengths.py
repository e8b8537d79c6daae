"""Euclidean norms of finite numbers whose squares, or the sum of those, the dtype cannot hold."""

import math

import torch
from torch import Tensor


def norm_and_scale(x: Tensor, dim: int | None = None, *, tiny: bool = False) -> tuple[Tensor, Tensor | None]:
    """‖x / s‖₂ and s, with which ‖x‖₂ = s ‖x / s‖₂; s is None for 1.

    In float32 the square of 1e20 is infinite, and so is the plain norm. Then s is a power of two near the largest |x|:
    x / s is exact. Everywhere else the norm is the plain one, to the bit.

    Only a processor looks whether s is needed, which costs it nothing. Another device would have to be waited for:
    there the squares are summed in float64, and s is None.

    Args:
        x: of any shape.
        dim: the dimension that is summed over, which stays with the size 1; None for all, whose norm is 0-dim.
        tiny: whether squares that vanish matter too, such as that of 1e-30.
    """
    keepdim = dim is not None
    if not x.is_cpu:
        return torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim, dtype=torch.float64), None
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)
    numbers = torch.finfo(x.dtype)
    wrong = norm.isinf()
    if tiny:
        # Beside sums above this, squares that are rounded to 0 are lost in rounding.
        wrong |= norm < math.sqrt(x.numel() * numbers.tiny / numbers.eps)
    if not wrong.any():
        return norm, None
    largest = torch.linalg.vector_norm(x, math.inf, dim=dim, keepdim=keepdim)
    exponent = torch.frexp(largest).exponent - 1
    scale = torch.ldexp(torch.ones_like(largest), exponent).clamp_(min=numbers.tiny)
    scale = torch.where(wrong & largest.isfinite() & (largest > 0), scale, 1.0)
    return torch.linalg.vector_norm(x / scale, dim=dim, keepdim=keepdim), scale
