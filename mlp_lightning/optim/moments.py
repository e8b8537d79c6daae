"""Running averages of the gradient and of its square, entry by entry: what Adam's family of rules shares."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.optim.ranges import require_betas, require_bool, require_nonnegative
from mlp_lightning.optim.update_rule import UpdateRule, check_decay, zero_at_first


class AdaptiveMoments(UpdateRule):
    """A rule that keeps m ← β1 m + (1 − β1) g and v ← β2 v + (1 − β2) g², and steps along their quotient.

    Its options are lr, betas (β1, β2), eps, weight_decay, decay_biases and weight_numel; amsgrad where it takes that.
    """

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range."""
        require_nonnegative("lr", options["lr"])
        require_betas(options["betas"])
        require_nonnegative("eps", options["eps"])
        check_decay(options)
        require_bool("amsgrad", options.get("amsgrad", False))

    def adam_step(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """θ ← θ − η m̂ / (√v̂ + ε), in place, after m, v and t have moved on (Kingma & Ba 2015, Algorithm 1)."""
        t = state["step"] = state.get("step", 0) + 1
        rate, eps = self.rate_and_eps(t, group)
        self.descend(parameter, grad, state, group, rate=rate, eps=eps)

    @staticmethod
    def rate_and_eps(t: int, group: Mapping[str, Any]) -> tuple[float, float]:
        """What multiplies m, and what is added to √v, at step t = 1, 2, …"""
        # m̂ / (√v̂ + ε) = (c₂ / c₁) · m / (√v + c₂ ε), with c₁ = 1 − β1ᵗ and c₂ = √(1 − β2ᵗ): both corrections are
        # numbers, so they cost no pass over the tensor.
        beta1, beta2 = group["betas"]
        c1 = 1 - beta1**t
        c2 = math.sqrt(1 - beta2**t)
        return group["lr"] * c2 / c1, c2 * group["eps"]

    def moments(self, parameter: Tensor) -> tuple[Tensor, Tensor, int]:
        """m, v and the number of steps made, for whoever makes the next ones."""
        state = self.state[parameter]
        t: int = state.setdefault("step", 0)
        m = zero_at_first(state, "first_moment", parameter)
        v = zero_at_first(state, "second_moment", parameter)
        return m, v, t

    def descend(
        self,
        parameter: Tensor,
        grad: Tensor,
        state: dict[str, Any],
        group: Mapping[str, Any],
        *,
        rate: float,
        eps: float,
        grad_rate: float = 0.0,
    ) -> None:
        """θ ← θ − (rate · m + grad_rate · g) / (√v + eps), in place, after m and v have moved on."""
        beta1, beta2 = group["betas"]
        amsgrad = group.get("amsgrad", False)
        m = zero_at_first(state, "first_moment", parameter)
        v = zero_at_first(state, "second_moment", parameter)
        one_pass = None if amsgrad else self.one_pass
        if one_pass is not None and one_pass(parameter, grad, m, v, beta1, beta2, rate, grad_rate, eps):
            return
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if amsgrad:
            largest = zero_at_first(state, "largest_second_moment", parameter)
            v = torch.maximum(largest, v, out=largest)
        denominator = torch.sqrt(v, out=self.scratch("denominator", parameter)).add_(eps)
        parameter.addcdiv_(m, denominator, value=-rate)
        if grad_rate:
            parameter.addcdiv_(grad, denominator, value=-grad_rate)
