"""Activations that overwrite their arguments: the formulas of ``activations`` for a training step that saves memory.

``forward(z) → a`` may return ``z`` itself, overwritten. ``backward(da, z, a) → dz`` may return ``da`` overwritten, and
may also overwrite ``z`` and ``a``: neither is read again. So ``forward`` may leave f′(z) in ``z`` for ``backward``.
"""

import math

import torch
from torch import Tensor

from mlp_lightning.nn.norm import fine


def sigmoid_forward_(z: Tensor) -> Tensor:
    """a = σ(z), in z."""
    return z.sigmoid_()


def sigmoid_backward_(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · a (1 − a), in da; spends a."""
    # 1 − a by itself: a − a² would lose every digit where the unit saturates.
    return da.mul_(a).mul_(a.neg_().add_(1))


def tanh_forward_(z: Tensor) -> Tensor:
    """a = tanh z, in z."""
    return z.tanh_()


def tanh_backward_(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · (1 − a²), in da; spends a."""
    return da.addcmul_(da, torch.mul(a, a, out=a), value=-1)


def relu_forward_(z: Tensor) -> Tensor:
    """a = max(z, 0), in z."""
    return z.clamp_min_(0)


def relu_backward_(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · f′, in da; a becomes f′, which is 1 where a > 0, else 0."""
    return da.mul_(a.gt_(0))


def gelu_forward_(z: Tensor) -> Tensor:
    """a = z Φ(z); z becomes f′ = Φ(z) + z φ(z), since both need Φ. Half precisions compute in float32."""
    fine_z = z.to(fine(z.dtype))
    # Beyond, Φ and φ are below 1e-31 or that near to 1, but erfc and exp take 20 times as long where they underflow.
    s = fine_z.clamp(-12, 12).mul_(-math.sqrt(0.5))
    cdf = torch.erfc(s).mul_(0.5)
    a = (fine_z * cdf).to(z.dtype)
    density = s.mul_(s).neg_().exp_()
    z.copy_(cdf.addcmul_(fine_z, density, value=1 / math.sqrt(2 * math.pi)))
    return a


def gelu_backward_(da: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """dz = da · f′, in da; the forward pass left f′ in z."""
    return da.mul_(z)
