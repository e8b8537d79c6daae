"""The layers in place: linear layers and activations that write into memory that is already there."""

from torch import Tensor

from mlp_lightning.engines.passes import GRADIENT, LinearStep
from mlp_lightning.nn.activations import ACTIVATIONS, Activation, Pair
from mlp_lightning.nn.linear import linear_backward, linear_backward_input, linear_forward


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

# An activation without a pair in place is taken as it is.
IN_PLACE: dict[str, Activation | Pair] = {name: f.in_place or f for name, f in ACTIVATIONS.items()}
