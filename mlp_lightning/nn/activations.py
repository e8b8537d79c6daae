"""Activations a = f(z) and their backward passes dz = da · f′(z), elementwise.

Each backward takes ``(da, z, a)``: f′ is written in whichever of z and a gives the shorter formula. All tensors of one
call have the same shape, usually ``(B, H)``. At the kink z = 0 the derivatives are torch's: 0 for relu, the slope for
leaky_relu.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LEAKY_SLOPE = 0.01
ELU_ALPHA = 1.0


class Activation(NamedTuple):
    """A pair: ``forward(z) → a`` and ``backward(da, z, a) → dz``."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]


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


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(identity_forward, identity_backward),
    "sigmoid": Activation(sigmoid_forward, sigmoid_backward),
    "tanh": Activation(tanh_forward, tanh_backward),
    "relu": Activation(relu_forward, relu_backward),
    "leaky_relu": Activation(leaky_relu_forward, leaky_relu_backward),
    "elu": Activation(elu_forward, elu_backward),
    "gelu": Activation(gelu_forward, gelu_backward),
    "silu": Activation(silu_forward, silu_backward),
    "softplus": Activation(softplus_forward, softplus_backward),
}
