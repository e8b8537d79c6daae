"""Adam and AdamW: steps scaled entry by entry by running averages of the gradient and of its square."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mlp_lightning.optim.native import adam_step, is_native
from mlp_lightning.optim.ranges import require_bool, require_decay_rate, require_nonnegative
from mlp_lightning.optim.update_rule import UpdateRule, zero_at_first


class _AdaptiveMoments(UpdateRule):
    """The rule that Adam and AdamW share; they differ in what they do with the weight decay."""

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        amsgrad: bool,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
        }
        super().__init__(params, defaults)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range."""
        require_nonnegative("lr", options["lr"])
        require_decay_rate("beta1", options["beta1"])
        require_decay_rate("beta2", options["beta2"])
        require_nonnegative("eps", options["eps"])
        require_nonnegative("weight_decay", options["weight_decay"])
        require_bool("amsgrad", options["amsgrad"])

    def moment_step(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """θ ← θ − η m̂ / (√v̂ + ε), in place, after m, v and t have moved on."""
        beta1, beta2 = group["beta1"], group["beta2"]
        t = state["step"] = state.get("step", 0) + 1
        m = zero_at_first(state, "first_moment", parameter)
        v = zero_at_first(state, "second_moment", parameter)
        # m̂ / (√v̂ + ε) = (c₂ / c₁) · m / (√v + c₂ ε), with c₁ = 1 − β1ᵗ and c₂ = √(1 − β2ᵗ): both corrections are
        # numbers, so they cost no pass over the tensor.
        c1 = 1 - beta1**t
        c2 = math.sqrt(1 - beta2**t)
        rate, eps = group["lr"] * c2 / c1, c2 * group["eps"]
        if not group["amsgrad"] and is_native(parameter, grad, m, v):
            one_pass = adam_step()
            if one_pass is not None:
                one_pass(parameter, grad, m, v, beta1, beta2, rate, eps)
                return
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if group["amsgrad"]:
            largest = zero_at_first(state, "largest_second_moment", parameter)
            v = torch.maximum(largest, v, out=largest)
        denominator = torch.sqrt(v, out=self.scratch("denominator", parameter)).add_(eps)
        parameter.addcdiv_(m, denominator, value=-rate)


class Adam(_AdaptiveMoments):
    """Adam (Kingma & Ba 2015, Algorithm 1).

    At step t = 1, 2, …, with g the gradient plus λ θ:

        m ← β1 m + (1 − β1) g        m̂ = m / (1 − β1ᵗ)
        v ← β2 v + (1 − β2) g²       v̂ = v / (1 − β2ᵗ)
        θ ← θ − η m̂ / (√v̂ + ε)

    ε stands outside the root and after the bias correction, as in Algorithm 1 and in torch; the reordered form
    in the paper's section 2 has a different ε̂. AMSGrad (Reddi et al. 2018, Algorithm 2) divides by the largest v
    so far; as in torch, and unlike the paper, its bias is corrected too.

    Args:
        lr: η ≥ 0.
        beta1: β1 in [0, 1).
        beta2: β2 in [0, 1).
        eps: ε ≥ 0. With 0, an entry that has only ever had zero gradients becomes NaN.
        weight_decay: λ ≥ 0, coupled: it passes through m and v, and is thereby rescaled, on every entry of the tensor.
        amsgrad: whether v never falls in the denominator.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay, amsgrad)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on one tensor, in place."""
        self.moment_step(parameter, self.decayed(grad, parameter, group["weight_decay"]), state, group)


class AdamW(_AdaptiveMoments):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2).

        θ ← (1 − η λ) θ, then Adam's step on the plain gradient

    As in torch, λ is multiplied by the learning rate η; in the paper it is multiplied by the schedule's factor alone.

    Args:
        lr: η ≥ 0.
        beta1: β1 in [0, 1).
        beta2: β2 in [0, 1).
        eps: ε ≥ 0, placed as in ``Adam``.
        weight_decay: λ ≥ 0, on every entry of the tensor.
        amsgrad: as in ``Adam``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay, amsgrad)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on one tensor, in place."""
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        self.moment_step(parameter, grad, state, group)
