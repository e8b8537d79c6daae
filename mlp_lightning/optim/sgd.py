"""Stochastic gradient descent with momentum."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from mlp_lightning.optim.fused_form import FusedForm
from mlp_lightning.optim.ranges import require_bool, require_decay_rate, require_nonnegative
from mlp_lightning.optim.update_rule import UpdateRule, check_decay, zero_at_first


class SGD(UpdateRule):
    """θ ← θ − η g, or with momentum along a running sum of gradients (Robbins & Monro 1951; Polyak 1964).

    With g the gradient plus λ θ, from the second step on:

        b ← μ b + (1 − τ) g          b = g at the first step, undamped
        θ ← θ − η b                  heavy ball
        θ ← θ − η (g + μ b)          Nesterov (Sutskever et al. 2013)

    These are torch's forms: η multiplies the whole buffer, where Polyak and Sutskever et al. put it inside.

    Args:
        lr: η ≥ 0.
        momentum: μ in [0, 1).
        dampening: τ in [0, 1).
        nesterov: whether to look ahead; needs momentum > 0 and dampening 0.
        weight_decay: λ ≥ 0.
        decay_biases: whether λ acts on every entry of the tensor, or on the first ``weight_numel`` alone.
        weight_numel: how many entries of a flat tensor ``(P,)`` are weights, in [1, P]; what follows are biases.

    Raises:
        ValueError: an argument outside its range.
    """

    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay_biases: bool = True,
        weight_numel: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "decay_biases": decay_biases,
            "weight_numel": weight_numel,
        }
        super().__init__(params, defaults)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range."""
        require_nonnegative("lr", options["lr"])
        require_decay_rate("momentum", options["momentum"])
        require_decay_rate("dampening", options["dampening"])
        require_bool("nesterov", options["nesterov"])
        check_decay(options)
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening 0, "
                f"got momentum {options['momentum']} and dampening {options['dampening']}"
            )

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on one tensor, in place."""
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        buffer = self._accumulate(parameter, grad, state, group) if momentum else None
        if buffer is not None and not group["nesterov"]:
            parameter.add_(buffer, alpha=-lr)
            return
        if weight_decay:
            self.decaying(parameter, group).mul_(1 - lr * weight_decay)
        parameter.add_(grad, alpha=-lr)
        if buffer is not None:
            parameter.add_(buffer, alpha=-lr * momentum)

    def fused(self) -> FusedForm | None:
        """The step in one pass; None with momentum and decay, where the decay goes through the buffer."""
        (group,) = self.param_groups
        if not group["momentum"]:
            return _Plain(self)
        return None if group["weight_decay"] else _Momentum(self)

    @staticmethod
    def within_product(group: Mapping[str, Any]) -> tuple[float, float, float]:
        """One step, without momentum, on a linear layer whose gradient is never formed, as coefficients.

        W ← beta W + alpha dW and b ← bias_beta b + alpha db, with dW = dZᵀ X, are one step with alpha = −η and
        beta = 1 − ηλ: an engine adds the gradient to the weights inside the product that computes it.

        Args:
            group: the options; momentum must be 0.

        Returns:
            alpha, beta and bias_beta.
        """
        beta = 1 - group["lr"] * group["weight_decay"]
        return -group["lr"], beta, beta if group["decay_biases"] else 1.0

    def _accumulate(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> Tensor:
        """b after this step's gradient has entered it."""
        if "momentum_buffer" in state:
            share = 1 - group["dampening"]
            buffer: Tensor = state["momentum_buffer"].mul_(group["momentum"]).add_(grad, alpha=share)
        else:
            share = 1.0
            buffer = zero_at_first(state, "momentum_buffer", parameter).copy_(grad)
        # Added term by term, here and in update, g + λ θ needs no memory of its own.
        if group["weight_decay"]:
            self.decaying(buffer, group).add_(self.decaying(parameter, group), alpha=share * group["weight_decay"])
        return buffer


class _Plain(FusedForm):
    kind = "sgd"

    def __init__(self, rule: SGD) -> None:
        super().__init__(rule)
        self._within_product = rule.within_product

    def coefficients(self, lr: float, ahead: int = 0) -> tuple[float, ...]:
        self.group["lr"] = lr
        return self._within_product(self.group)


class _Momentum(FusedForm):
    kind = "momentum"
    _is_first = False

    def moments(self) -> list[Tensor]:
        state = self.rule.state[self.parameter]
        self._is_first = self._is_first or "momentum_buffer" not in state
        return [zero_at_first(state, "momentum_buffer", self.parameter)]

    def coefficients(self, lr: float, ahead: int = 0) -> tuple[float, ...]:
        self.moments()
        self.group["lr"] = lr
        momentum = self.group["momentum"]
        # The buffer begins as the gradient itself, undamped.
        buffer = (0.0, 1.0) if self._is_first and not ahead else (momentum, 1 - self.group["dampening"])
        alpha, alpha_of_buffer = (-lr, -lr * momentum) if self.group["nesterov"] else (0.0, -lr)
        return (alpha, 1.0, 1.0, *buffer, alpha_of_buffer)

    def count(self, steps: int) -> None:
        self._is_first = self._is_first and not steps
