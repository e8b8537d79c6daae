"""RMSprop: steps divided, entry by entry, by the root of a running mean square of the gradient."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mlp_lightning.optim.ranges import require_bool, require_decay_rate, require_nonnegative
from mlp_lightning.optim.update_rule import UpdateRule, check_decay, zero_at_first


class RMSprop(UpdateRule):
    """RMSprop (Tieleman & Hinton 2012, lecture 6e), with Graves's centring and momentum (2013, eq. 38–41).

    With g the gradient plus λ θ:

        v ← α v + (1 − α) g²
        a ← α a + (1 − α) g          centred only; otherwise a = 0
        d = √(v − a²) + ε
        b ← μ b + g / d              with momentum; otherwise b = g / d
        θ ← θ − η b

    ε stands outside the root, as in torch; Graves has it inside.

    Args:
        lr: η ≥ 0.
        alpha: α in [0, 1).
        eps: ε ≥ 0. With 0, an entry whose d is 0 becomes NaN or infinite.
        momentum: μ in [0, 1).
        centered: whether to divide by the standard deviation rather than by the root mean square.
        weight_decay: λ ≥ 0.
        decay_biases: whether λ acts on every entry of the tensor, or on the first ``weight_numel`` alone.
        weight_numel: how many entries of a flat tensor ``(P,)`` are weights, in [1, P]; what follows are biases.

    Raises:
        ValueError: an argument outside its range.
    """

    state_names = ("first_moment", "second_moment", "momentum_buffer")

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
        decay_biases: bool = True,
        weight_numel: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "momentum": momentum,
            "centered": centered,
            "weight_decay": weight_decay,
            "decay_biases": decay_biases,
            "weight_numel": weight_numel,
        }
        super().__init__(params, defaults)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range."""
        require_nonnegative("lr", options["lr"])
        require_decay_rate("alpha", options["alpha"])
        require_nonnegative("eps", options["eps"])
        require_decay_rate("momentum", options["momentum"])
        require_bool("centered", options["centered"])
        check_decay(options)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on one tensor, in place."""
        lr, alpha, momentum = group["lr"], group["alpha"], group["momentum"]
        grad = self.decayed(grad, parameter, group)
        denominator = self.scratch("denominator", parameter)
        v = zero_at_first(state, "second_moment", parameter)
        v.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
        if group["centered"]:
            a = zero_at_first(state, "first_moment", parameter)
            a.lerp_(grad, 1 - alpha)
            # The variance of a steady gradient tends to 0, and rounding may carry it below.
            torch.addcmul(v, a, a, value=-1, out=denominator).clamp_min_(0).sqrt_()
        else:
            torch.sqrt(v, out=denominator)
        denominator.add_(group["eps"])
        if momentum:
            buffer = zero_at_first(state, "momentum_buffer", parameter)
            buffer.mul_(momentum).addcdiv_(grad, denominator)
            parameter.add_(buffer, alpha=-lr)
        else:
            parameter.addcdiv_(grad, denominator, value=-lr)
