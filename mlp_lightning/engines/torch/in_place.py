"""The activations in place: the formulas of ``activations`` for a training step that gets by on the memory it has.

``forward(z) → a`` may return ``z`` itself, overwritten. ``backward(da, z, a) → dz`` may return ``da`` overwritten, and
may spend ``z`` and ``a`` on the way: both are dead once dz is known. So ``forward`` may also leave f′(z) in ``z`` for
``backward``. Other activations whose derivative needs z beside a, or a temporary of their own, are taken from
``activations`` as they are.
"""

import math

import torch
from torch import Tensor

from mlp_lightning.engines.passes import GRADIENT, LinearStep
from mlp_lightning.nn.activations import ACTIVATIONS, Activation
from mlp_lightning.nn.linear import linear_backward, linear_backward_input, linear_forward
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


class LinearInPlace:
    """The linear layer of ``linear``, into memory that is there; ``NativeLinear`` is the same in C."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        """Z = X Wᵀ + b ``(B, H)``, in ``out``."""
        return linear_forward(x, weight, bias, out)

    def backward_input(self, dz: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """dX = dZ W ``(B, D)``, in ``out``."""
        return linear_backward_input(dz, weight, out)

    def backward(
        self,
        dz: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        step: LinearStep = GRADIENT,
    ) -> None:
        """W ← beta W + alpha dZᵀ X and b ← bias_beta b + alpha Σ_i dZ_i; with beta 0, W may hold anything before."""
        alpha, beta, bias_beta = step
        if alpha == 1 and beta == bias_beta and beta in (0, 1):
            linear_backward(dz, x, weight, bias, add=beta == 1)
        else:
            weight.addmm_(dz.t(), x, beta=beta, alpha=alpha)
            bias.mul_(bias_beta).add_(dz.sum(0), alpha=alpha)


IN_TORCH = LinearInPlace()

IN_PLACE: dict[str, Activation] = {
    **ACTIVATIONS,
    "sigmoid": Activation(sigmoid_forward_, sigmoid_backward_),
    "tanh": Activation(tanh_forward_, tanh_backward_),
    "relu": Activation(relu_forward_, relu_backward_),
    "gelu": Activation(gelu_forward_, gelu_backward_),
}
