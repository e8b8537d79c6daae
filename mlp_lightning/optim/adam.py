"""Adam and AdamW: steps scaled entry by entry by running averages of the gradient and of its square."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from mlp_lightning.optim.fused_form import FusedForm
from mlp_lightning.optim.moments import AdaptiveMoments


class _AdamOptions(AdaptiveMoments):
    """The options that Adam and AdamW share; they differ in what they do with the weight decay."""

    state_names = ("step", "first_moment", "second_moment", "largest_second_moment")

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        amsgrad: bool,
        decay_biases: bool,
        weight_numel: int | None,
        betas: tuple[float, float] | None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": (beta1, beta2) if betas is None else betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "decay_biases": decay_biases,
            "weight_numel": weight_numel,
        }
        super().__init__(params, defaults)

    def fused(self) -> FusedForm | None:
        """The step in one pass; None with AMSGrad, which keeps a third moment, and for a decay in the gradient."""
        (group,) = self.param_groups
        return None if group["amsgrad"] or not self._decays_apart(group) else _Moments(self)

    def _decays_apart(self, group: Mapping[str, Any]) -> bool:
        """Whether the weight decay, if there is one, leaves the gradient as it is."""
        return not group["weight_decay"]


class _Moments(FusedForm):
    kind = "adam"

    def __init__(self, rule: _AdamOptions) -> None:
        super().__init__(rule)
        self.rule: _AdamOptions = rule

    def moments(self) -> list[Tensor]:
        m, v, _ = self.rule.moments(self.parameter)
        return [m, v]

    def coefficients(self, lr: float, ahead: int = 0) -> tuple[float, ...]:
        group = self.group
        group["lr"] = lr
        *_, t = self.rule.moments(self.parameter)
        rate, eps = self.rule.rate_and_eps(t + ahead + 1, group)
        beta = 1 - lr * group["weight_decay"]
        beta1, beta2 = group["betas"]
        return rate, beta, beta if group["decay_biases"] else 1.0, 1 - beta1, beta2, 1 - beta2, eps

    def count(self, steps: int) -> None:
        self.rule.moments(self.parameter)
        self.rule.state[self.parameter]["step"] += steps


class Adam(_AdamOptions):
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
        weight_decay: λ ≥ 0, coupled: it passes through m and v, and is thereby rescaled.
        amsgrad: whether v never falls in the denominator.
        decay_biases, weight_numel: as in ``SGD``.
        betas: (β1, β2), as torch's optimizer takes them, in the place of the two.

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
        decay_biases: bool = True,
        weight_numel: int | None = None,
        betas: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay, amsgrad, decay_biases, weight_numel, betas)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on one tensor, in place."""
        self.adam_step(parameter, self.decayed(grad, parameter, group), state, group)


class AdamW(_AdamOptions):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2).

        θ ← (1 − η λ) θ, then Adam's step on the plain gradient

    As in torch, λ is multiplied by the learning rate η; in the paper it is multiplied by the schedule's factor alone.

    Args:
        lr: η ≥ 0.
        beta1: β1 in [0, 1).
        beta2: β2 in [0, 1).
        eps: ε ≥ 0, placed as in ``Adam``.
        weight_decay: λ ≥ 0.
        amsgrad: as in ``Adam``.
        decay_biases, weight_numel: as in ``SGD``.
        betas: (β1, β2), as torch's optimizer takes them, in the place of the two.

    Raises:
        ValueError: an argument outside its range.
    """

    decouples_decay = True

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
        decay_biases: bool = True,
        weight_numel: int | None = None,
        betas: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay, amsgrad, decay_biases, weight_numel, betas)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on one tensor, in place."""
        self.shrink(parameter, group)
        self.adam_step(parameter, grad, state, group)

    def _decays_apart(self, group: Mapping[str, Any]) -> bool:
        return True
