"""AdamNorm: momentum with one second moment for the whole network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mlp_lightning.optim.ranges import require_betas, require_int, require_nonnegative
from mlp_lightning.optim.update_rule import UpdateRule, zero_at_first


class AdamNorm(UpdateRule):
    """The notebook's home-made Adam: m for every entry, one number v for the whole network, no bias correction.

        m ← β1 m + (1 − β1) g        every entry
        v ← β2 v + (1 − β2) Σ‖dW‖²   one number, summed over the weights; the biases do not count
        θ ← θ − η m / √(v + ε)       m = 0 and v = 0 at first

    Adam (Kingma & Ba 2015, Algorithm 1) keeps a v for every entry, corrects the bias of both moments and has ε outside
    the root. There each entry moves by about η under a steady gradient; here the weights of the whole network together
    do, so η is the length of a step through weight space, whatever the size of the network and the scale of the loss,
    and entries with small gradients move little. NovoGrad (Ginsburg et al. 2019, Algorithm 1) stands between the two:
    one v a layer, from the squared norm of the layer's gradient; but it divides the gradient by √v + ε before it enters
    m, starts with v = ‖g‖² and decays the weights.

    Args:
        params: exactly one tensor ``(P,)``, the weights first, then the biases.
        lr: η ≥ 0.
        weight_numel: how many of the P entries are weights, in [1, P].
        beta1: β1 in [0, 1).
        beta2: β2 in [0, 1).
        eps: ε ≥ 0. With 0, a first gradient that is 0 for all weights gives NaN.

    Raises:
        ValueError: an argument outside its range, more than one tensor, or one that is not flat.
    """

    state_names = ("first_moment", "second_moment")

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        weight_numel: int,
        beta1: float = 0.9,
        beta2: float = 0.5,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_numel": weight_numel, "betas": (beta1, beta2), "eps": eps})

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range."""
        require_nonnegative("lr", options["lr"])
        require_int("weight_numel", options["weight_numel"], 1)
        require_betas(options["betas"])
        require_nonnegative("eps", options["eps"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one group with the one tensor.

        Raises:
            ValueError: an option outside its range, a second tensor, or one that is not flat.
        """
        if self.param_groups:
            raise ValueError("params must be exactly one tensor, got a second group")
        super().add_param_group(param_group)
        params, weight_numel = self.param_groups[0]["params"], self.param_groups[0]["weight_numel"]
        if len(params) != 1 or params[0].ndim != 1:
            raise ValueError(f"params must be exactly one flat tensor (P,), got {[tuple(p.shape) for p in params]}")
        if weight_numel > params[0].numel():
            raise ValueError(f"weight_numel must be at most {params[0].numel()}, the tensor's size, got {weight_numel}")

    def state_shape(self, name: str, parameter: Tensor, group: Mapping[str, Any]) -> tuple[int, ...]:
        """Of the parameter for m; v is one number."""
        return () if name == "second_moment" else super().state_shape(name, parameter, group)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on the flat tensor, in place."""
        m = zero_at_first(state, "first_moment", parameter)
        v = zero_at_first(state, "second_moment", parameter[0])
        beta1, beta2 = group["betas"]
        m.lerp_(grad, 1 - beta1)
        dweight = grad[: group["weight_numel"]]
        v.mul_(beta2).add_(torch.dot(dweight, dweight), alpha=1 - beta2)
        # v stays a 0-dim tensor: to read it as a number would wait for the device.
        parameter.addcdiv_(m, (v + group["eps"]).sqrt_(), value=-group["lr"])
