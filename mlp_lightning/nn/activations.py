"""Activations a = f(z) and their backward passes dz = da · f′(z), elementwise.

Each backward takes ``(da, z, a)``: f′ is written in whichever of z and a gives the shorter formula. All tensors of one
call have the same shape, usually ``(B, H)``. At the kink z = 0 the derivatives are torch's: 0 for relu, the slope for
leaky_relu.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mlp_lightning.nn import activations_in_place as in_place

LEAKY_SLOPE = 0.01
ELU_ALPHA = 1.0


Forward = Callable[[Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor], Tensor]


class Pair(NamedTuple):
    """``forward(z) → a`` and ``backward(da, z, a) → dz``."""

    forward: Forward
    backward: Backward


class Activation(NamedTuple):
    """``forward(z) → a`` and ``backward(da, z, a) → dz``, with all that other parts need to know of f.

    Args:
        forward: f.
        backward: its derivative times da.
        module: torch's own f, which ``check`` compares with and ``export`` writes.
        bounds: the limits of f at −∞ and ∞, if it saturates at both.
        kink: what jumps at z = 0: the slope, of an f that is linear on both sides with slope 1 on the right, or the
            curvature alone.
        in_place: the same pair for a training step, which may overwrite its arguments.
    """

    forward: Forward
    backward: Backward
    module: Callable[[], nn.Module]
    bounds: tuple[float, float] | None = None
    kink: Literal["slope", "curvature"] | None = None
    in_place: Pair | None = None


def identity_forward(z: Tensor) -> Tensor:
    """a = z."""
    return z


def identity_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da."""
    return da


def sigmoid_forward(z: Tensor) -> Tensor:
    """a = σ(z) = 1 / (1 + e⁻ᶻ)."""
    return torch.sigmoid(z)


def sigmoid_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · a (1 − a), since σ′ = σ (1 − σ)."""
    return (1 - a).mul_(a).mul_(da)


def tanh_forward(z: Tensor) -> Tensor:
    """a = tanh z."""
    return torch.tanh(z)


def tanh_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · (1 − a²), since tanh′ = 1 − tanh²."""
    return torch.addcmul(da, da * a, a, value=-1)


def relu_forward(z: Tensor) -> Tensor:
    """a = max(z, 0) (Nair & Hinton 2010)."""
    return torch.clamp_min(z, 0)


def relu_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da where a > 0, else 0."""
    return torch.where(a > 0, da, 0)


def leaky_relu_forward(z: Tensor) -> Tensor:
    """a = z where z > 0, else 0.01 z (Maas et al. 2013)."""
    return torch.where(z > 0, z, LEAKY_SLOPE * z)


def leaky_relu_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da where z > 0, else 0.01 da."""
    return torch.where(z > 0, da, LEAKY_SLOPE * da)


def elu_forward(z: Tensor) -> Tensor:
    """a = z where z > 0, else α (eᶻ − 1), α = 1 (Clevert et al. 2016, eq. 16)."""
    return torch.where(z > 0, z, ELU_ALPHA * torch.expm1(z))


def elu_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da where z > 0, else da · (a + α), since α eᶻ = a + α."""
    return torch.where(z > 0, da, da * (a + ELU_ALPHA))


def gelu_forward(z: Tensor) -> Tensor:
    """a = z Φ(z), Φ(z) = ½ (1 + erf(z / √2)) the normal distribution function (Hendrycks & Gimpel 2016; exact)."""
    return z * _normal_cdf(z)


def gelu_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · (Φ(z) + z φ(z)), φ = Φ′ the normal density e^(−z²/2) / √(2π)."""
    density = torch.exp(-0.5 * z * z).mul_(1 / math.sqrt(2 * math.pi))
    return density.mul_(z).add_(_normal_cdf(z)).mul_(da)


def _normal_cdf(z: Tensor) -> Tensor:
    # erfc keeps full relative precision in the left tail, where 1 + erf would cancel.
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))


def silu_forward(z: Tensor) -> Tensor:
    """a = z σ(z) (Elfwing et al. 2018)."""
    return z * torch.sigmoid(z)


def silu_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · (σ(z) + a (1 − σ(z)))."""
    sigma = torch.sigmoid(z)
    return (1 - sigma).mul_(a).add_(sigma).mul_(da)


def softplus_forward(z: Tensor) -> Tensor:
    """a = log(1 + eᶻ), computed as max(z, 0) + log(1 + e^(−|z|)), which no z overflows (Dugas et al. 2001)."""
    return torch.clamp_min(z, 0) + torch.log1p(torch.exp(-z.abs()))


def softplus_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · σ(z)."""
    return torch.sigmoid(z).mul_(da)


def mish_forward(z: Tensor) -> Tensor:
    """a = z t, t = tanh(log(1 + eᶻ)) (Misra 2019), computed as t = σ (1 + u) / (1 + u²) with u = 1 − σ(z)."""
    sigma = torch.sigmoid(z)
    u = 1 - sigma
    return z * (sigma * (1 + u) / (1 + u * u))


def mish_backward(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · (t + z t′), t′ = (1 − t²) σ = 4 u² σ / (1 + u²)²."""
    sigma = torch.sigmoid(z)
    u = 1 - sigma
    quotient = sigma.div_(1 + u * u)
    t = quotient * (1 + u)
    return (4 * u * u).mul_(quotient).div_(1 + u * u).mul_(z).add_(t).mul_(da)


# Above its threshold torch's softplus is z itself, 2·10⁻⁹ off at the default of 20. At 40 the rest, e⁻⁴⁰, is below the
# rounding of 40 in float64, and e⁴⁰ overflows no float32.
SOFTPLUS_THRESHOLD = 40.0

ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Activation(
        sigmoid_forward,
        sigmoid_backward,
        nn.Sigmoid,
        bounds=(0.0, 1.0),
        in_place=Pair(in_place.sigmoid_forward_, in_place.sigmoid_backward_),
    ),
    "tanh": Activation(
        tanh_forward,
        tanh_backward,
        nn.Tanh,
        bounds=(-1.0, 1.0),
        in_place=Pair(in_place.tanh_forward_, in_place.tanh_backward_),
    ),
    "relu": Activation(
        relu_forward,
        relu_backward,
        nn.ReLU,
        kink="slope",
        in_place=Pair(in_place.relu_forward_, in_place.relu_backward_),
    ),
    "leaky_relu": Activation(leaky_relu_forward, leaky_relu_backward, nn.LeakyReLU, kink="slope"),
    "elu": Activation(elu_forward, elu_backward, nn.ELU, kink="curvature"),
    "gelu": Activation(
        gelu_forward, gelu_backward, nn.GELU, in_place=Pair(in_place.gelu_forward_, in_place.gelu_backward_)
    ),
    "silu": Activation(silu_forward, silu_backward, nn.SiLU),
    "softplus": Activation(softplus_forward, softplus_backward, partial(nn.Softplus, threshold=SOFTPLUS_THRESHOLD)),
    "mish": Activation(mish_forward, mish_backward, nn.Mish),
    "identity": Activation(identity_forward, identity_backward, nn.Identity),
}
