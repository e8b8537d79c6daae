"""Initialisers: fill a layer's weight ``(H, D)`` and bias ``(H,)`` in place from a ``torch.Generator``.

fan_in = D and fan_out = H. Biases start at zero except in ``he_notebook``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Initializer = Callable[[Tensor, Tensor, torch.Generator], None]


def zeros(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """W = 0: with hidden layers every unit of a layer stays the same for ever, which is worth seeing once."""
    weight.zero_()
    bias.zero_()


def glorot_uniform(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """W ~ U(−r, r), r = √(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16)."""
    fan_out, fan_in = weight.shape
    bound = math.sqrt(6 / (fan_in + fan_out))
    weight.uniform_(-bound, bound, generator=generator)
    bias.zero_()


def glorot_normal(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """W ~ N(0, 2 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 12)."""
    fan_out, fan_in = weight.shape
    weight.normal_(0, math.sqrt(2 / (fan_in + fan_out)), generator=generator)
    bias.zero_()


def he_normal(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """W ~ N(0, 2 / fan_in) (He et al. 2015, eq. 10)."""
    weight.normal_(0, math.sqrt(2 / weight.shape[1]), generator=generator)
    bias.zero_()


def he_uniform(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """W ~ U(−r, r), r = √(6 / fan_in): the variance of he_normal (He et al. 2015, eq. 10)."""
    bound = math.sqrt(6 / weight.shape[1])
    weight.uniform_(-bound, bound, generator=generator)
    bias.zero_()


def he_notebook(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """The notebook's He: W as in he_normal, but b ~ N(0, 1) where He et al. start at zero."""
    he_normal(weight, bias, generator)
    bias.normal_(0, 1, generator=generator)


def lecun_normal(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """W ~ N(0, 1 / fan_in) (LeCun et al. 1998, "Efficient BackProp", eq. 16)."""
    weight.normal_(0, math.sqrt(1 / weight.shape[1]), generator=generator)
    bias.zero_()


def orthogonal(weight: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """W with orthonormal rows (H ≤ D) or columns (H > D), uniformly distributed (Saxe et al. 2014).

    The QR factor of a Gaussian matrix is uniform once R has a positive diagonal (Mezzadri 2007, eq. 5.12).
    """
    rows, columns = weight.shape
    # In float64, since LAPACK has no QR of half precision.
    gaussian = torch.empty(max(rows, columns), min(rows, columns), dtype=torch.float64, device=weight.device)
    q, r = torch.linalg.qr(gaussian.normal_(generator=generator))
    q *= torch.where(r.diagonal() < 0, -1.0, 1.0)
    weight.copy_(q if rows >= columns else q.t())
    bias.zero_()


INITIALIZERS: dict[str, Initializer] = {
    "zeros": zeros,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "he_notebook": he_notebook,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
}
