"""NAdam: Adam whose step looks ahead along Nesterov's momentum."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from mlp_lightning.optim.moments import AdaptiveMoments
from mlp_lightning.optim.ranges import require_bool, require_nonnegative

# The base of the momentum's warm-up, a constant in Dozat's paper as in torch.
WARMUP_BASE = 0.96


class NAdam(AdaptiveMoments):
    """NAdam (Dozat 2016, "Incorporating Nesterov Momentum into Adam", Algorithm 2).

    At step t = 1, 2, …, with g the gradient, plus λ θ where the decay is coupled:

        μ_t = β1 (1 − ½ · 0.96^(t ψ))        grows from about β1 / 2 to β1
        m ← β1 m + (1 − β1) g
        v ← β2 v + (1 − β2) g²               v̂ = v / (1 − β2ᵗ)
        m̂ = μ_{t+1} m / (1 − μ_1 ⋯ μ_{t+1}) + (1 − μ_t) g / (1 − μ_1 ⋯ μ_t)
        θ ← θ − η m̂ / (√v̂ + ε)

    The step takes the momentum that comes next and this gradient once more, as Nesterov's form does in ``SGD``. As in
    torch, and unlike Algorithm 2, m itself averages with a constant β1; the momenta μ enter m̂ alone.

    Args:
        lr: η ≥ 0.
        beta1: β1 in [0, 1).
        beta2: β2 in [0, 1).
        eps: ε ≥ 0, placed as in ``Adam``.
        weight_decay: λ ≥ 0.
        momentum_decay: ψ ≥ 0, how fast μ grows; 0 leaves it at β1 / 2.
        decoupled_weight_decay: whether λ shrinks θ as in ``AdamW``, or passes through m and v as in ``Adam``.
        decay_biases, weight_numel: as in ``SGD``.
        betas: (β1, β2), as torch's optimizer takes them, in the place of the two.

    Raises:
        ValueError: an argument outside its range.
    """

    state_names = ("step", "first_moment", "second_moment", "momentum_product")

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 0.004,
        decoupled_weight_decay: bool = False,
        decay_biases: bool = True,
        weight_numel: int | None = None,
        betas: tuple[float, float] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": (beta1, beta2) if betas is None else betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "decay_biases": decay_biases,
            "weight_numel": weight_numel,
        }
        super().__init__(params, defaults)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range."""
        AdaptiveMoments.check(options)
        require_nonnegative("momentum_decay", options["momentum_decay"])
        require_bool("decoupled_weight_decay", options["decoupled_weight_decay"])

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on one tensor, in place."""
        if group["decoupled_weight_decay"]:
            self.shrink(parameter, group)
        else:
            grad = self.decayed(grad, parameter, group)
        t = state["step"] = state.get("step", 0) + 1
        mu, mu_next = momentum_at(t, group), momentum_at(t + 1, group)
        product = state["momentum_product"] = state.get("momentum_product", 1.0) * mu
        # √v̂ = √v / c₂, as in Adam; all corrections are numbers.
        c2 = math.sqrt(1 - group["betas"][1] ** t)
        self.descend(
            parameter,
            grad,
            state,
            group,
            rate=group["lr"] * c2 * mu_next / (1 - product * mu_next),
            grad_rate=group["lr"] * c2 * (1 - mu) / (1 - product),
            eps=c2 * group["eps"],
        )


def momentum_at(t: int, group: Mapping[str, Any]) -> float:
    """μ_t = β1 (1 − ½ · 0.96^(t ψ))."""
    return float(group["betas"][0] * (1 - 0.5 * WARMUP_BASE ** (t * group["momentum_decay"])))
