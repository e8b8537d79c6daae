"""Batch norm and layer norm, N = γ · ẑ + β with ẑ = (Z − μ) / √(σ² + ε), and their backward passes.

Batch norm takes μ and σ² of each unit over the samples of the minibatch (Ioffe & Szegedy 2015, algorithm 1), layer norm
those of each sample over the units of the layer (Ba et al. 2016, eq. 3). γ and β ``(H,)`` are learned for each unit.
Both σ² divide by the number of terms; ε is 10⁻⁵, as in torch.

Statistics, ẑ and the gradients of γ and β are computed in float32 at least. Whatever is overwritten is said so: Z
becomes ẑ, and dN becomes dZ.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.nn.training_pass import Total, TrainingPass

NormName = Literal["none", "batch", "layer"]

EPS = 1e-5
MOMENTUM = 0.1


class Norm(NamedTuple):
    """Views ``(H,)`` of one norm's γ, β, their gradients and, for batch norm, what evaluation takes for μ and σ²."""

    gamma: Tensor
    beta: Tensor
    dgamma: Tensor
    dbeta: Tensor
    running_mean: Tensor | None = None
    running_var: Tensor | None = None


class NormCache(NamedTuple):
    """ẑ ``(B, H)``; 1/√(σ² + ε), μ and σ², ``(H,)`` over samples or ``(B, 1)`` over units; the pass, if it trains."""

    z_hat: Tensor
    inverse_std: Tensor
    mean: Tensor
    var: Tensor
    training: TrainingPass | None = None


def batch_norm_forward_(z: Tensor, size: int, total: Total) -> NormCache:
    """ẑ = (Z − μ) / √(σ² + ε), in z, with μ = Σ_i Z_i / B and σ² = Σ_i (Z_i − μ)² / B.

    The sums run over the minibatch of all processes. The squares are taken of differences from μ: E[Z²] − μ² would lose
    every digit of a σ that is small beside μ. A single sample has σ² = 0, hence ẑ = 0.

    Args:
        z: Z ``(B, H)``, this process's rows, overwritten.
        size: B, over all processes.
        total: sums a tensor over them, in place.
    """
    mean = total(z.sum(0)).div_(size)
    z.sub_(mean)
    var = _held(total(z.square().sum(0)).div_(size))
    inverse_std = torch.rsqrt(var + EPS)
    return NormCache(z.mul_(inverse_std), inverse_std, mean, var)


def batch_norm_backward_(
    dn: Tensor, gamma: Tensor, cache: NormCache, size: int, total: Total
) -> tuple[Tensor, Tensor, Tensor]:
    """dZ = γ/√(σ² + ε) · (dN − dβ/B − ẑ · dγ/B), in dn, with dγ = Σ_i dN_i · ẑ_i and dβ = Σ_i dN_i.

    In dZ both sums run over the minibatch of all processes, since each Z_i moves μ and σ² for all of it. The dγ and dβ
    returned are this process's shares, as every other gradient is.
    """
    dgamma, dbeta = (dn * cache.z_hat).sum(0), dn.sum(0)
    mean_dgamma, mean_dbeta = total(torch.stack([dgamma, dbeta])).div_(size)
    dz = dn.sub_(mean_dbeta).addcmul_(cache.z_hat, mean_dgamma, value=-1).mul_(gamma * cache.inverse_std)
    return dz, dgamma, dbeta


def layer_norm_forward_(z: Tensor) -> NormCache:
    """ẑ = (Z − μ) / √(σ² + ε), in z ``(B, H)``, with μ = Σ_h Z_h / H and σ² = Σ_h (Z_h − μ)² / H of each row."""
    width = z.shape[1]
    mean = z.sum(1, keepdim=True).div_(width)
    z.sub_(mean)
    var = _held(z.square().sum(1, keepdim=True).div_(width))
    inverse_std = torch.rsqrt(var + EPS)
    return NormCache(z.mul_(inverse_std), inverse_std, mean, var)


def layer_norm_backward_(dn: Tensor, gamma: Tensor, cache: NormCache) -> tuple[Tensor, Tensor, Tensor]:
    """dZ = 1/√(σ² + ε) · (dẑ − Σ_h dẑ_h / H − ẑ · Σ_h dẑ_h ẑ_h / H), in dn, with dẑ = γ · dN; dγ and dβ as above."""
    dgamma, dbeta = (dn * cache.z_hat).sum(0), dn.sum(0)
    dz_hat, width = dn.mul_(gamma), dn.shape[1]
    mean = dz_hat.sum(1, keepdim=True).div_(width)
    mean_product = (dz_hat * cache.z_hat).sum(1, keepdim=True).div_(width)
    dz = dz_hat.sub_(mean).sub_(cache.z_hat * mean_product).mul_(cache.inverse_std)
    return dz, dgamma, dbeta


def fixed_norm_forward_(z: Tensor, mean: Tensor, var: Tensor) -> NormCache:
    """ẑ = (Z − μ) / √(σ² + ε), in z ``(B, H)``, with μ and σ² ``(H,)`` from elsewhere: batch norm in evaluation."""
    inverse_std = torch.rsqrt(var + EPS)
    return NormCache(z.sub_(mean).mul_(inverse_std), inverse_std, mean, var)


def fixed_norm_backward_(dn: Tensor, gamma: Tensor, cache: NormCache) -> tuple[Tensor, Tensor, Tensor]:
    """dZ = γ/√(σ² + ε) · dN, in dn; dγ and dβ as above."""
    dgamma, dbeta = (dn * cache.z_hat).sum(0), dn.sum(0)
    return dn.mul_(gamma * cache.inverse_std), dgamma, dbeta


def norm_forward_(
    norm: Norm, z: Tensor, training: TrainingPass | None, out: Tensor | None = None
) -> tuple[Tensor, NormCache]:
    """N = γ · ẑ + β ``(B, H)``, into ``out`` or new memory; Z, which is float32 at least, becomes ẑ."""
    if norm.running_mean is None or norm.running_var is None:
        cache = layer_norm_forward_(z)
    elif training is None:
        cache = fixed_norm_forward_(z, norm.running_mean.to(z.dtype), norm.running_var.to(z.dtype))
    else:
        cache = batch_norm_forward_(z, training.size, training.total)._replace(training=training)
    return torch.addcmul(norm.beta.to(z.dtype), cache.z_hat, norm.gamma.to(z.dtype), out=out), cache


def norm_backward_(norm: Norm, dn: Tensor, cache: NormCache) -> tuple[Tensor, Tensor, Tensor]:
    """dZ ``(B, H)``, dγ and dβ ``(H,)``; dN, which has ẑ's dtype, becomes dZ."""
    gamma = norm.gamma.to(dn.dtype)
    if norm.running_mean is None:
        return layer_norm_backward_(dn, gamma, cache)
    if cache.training is None:
        return fixed_norm_backward_(dn, gamma, cache)
    return batch_norm_backward_(dn, gamma, cache, cache.training.size, cache.training.total)


def follow_(norm: Norm, cache: NormCache) -> None:
    """Let the running statistics follow a minibatch: r ← 0.9 r + 0.1 s, s being μ or the unbiased B/(B − 1) · σ².

    Layer norm has none. A minibatch of one sample has no unbiased σ² and is passed over.
    """
    size = 0 if cache.training is None else cache.training.size
    if norm.running_mean is None or norm.running_var is None or size < 2:
        return
    norm.running_mean.lerp_(cache.mean.to(norm.running_mean.dtype), MOMENTUM)
    norm.running_var.lerp_((cache.var * (size / (size - 1))).to(norm.running_var.dtype), MOMENTUM)


def _held(var: Tensor) -> Tensor:
    """σ², or NaN where the dtype cannot hold it: with an infinite one ẑ would be 0, and nobody would hear of it."""
    return var.fmod_(math.inf)


def fine(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a norm of tensors of ``dtype`` computes: float32 at least."""
    return torch.promote_types(dtype, torch.float32)
