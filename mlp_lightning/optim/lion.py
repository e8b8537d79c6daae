"""Lion: steps of one length in every entry, along the sign of a momentum."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mlp_lightning.optim.ranges import require_betas, require_nonnegative
from mlp_lightning.optim.update_rule import UpdateRule, check_decay, zero_at_first


class Lion(UpdateRule):
    """Lion (Chen et al. 2023, Algorithm 2).

        u = sign(β1 m + (1 − β1) g)       sign(0) = 0
        θ ← (1 − η λ) θ − η u
        m ← β2 m + (1 − β2) g             m = 0 at first

    Every entry moves by η, so λ matters more than in AdamW: the paper takes η three to ten times smaller and λ as many
    times larger. As there and in AdamW, λ is multiplied by the learning rate.

    Args:
        lr: η ≥ 0.
        beta1: β1 in [0, 1), of the step.
        beta2: β2 in [0, 1), of the average.
        weight_decay: λ ≥ 0, decoupled.
        decay_biases, weight_numel: as in ``SGD``.

    Raises:
        ValueError: an argument outside its range.
    """

    state_names = ("first_moment",)
    decouples_decay = True

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
        decay_biases: bool = True,
        weight_numel: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": (beta1, beta2),
            "weight_decay": weight_decay,
            "decay_biases": decay_biases,
            "weight_numel": weight_numel,
        }
        super().__init__(params, defaults)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range."""
        require_nonnegative("lr", options["lr"])
        require_betas(options["betas"])
        check_decay(options)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on one tensor, in place."""
        m = zero_at_first(state, "first_moment", parameter)
        beta1, beta2 = group["betas"]
        self.shrink(parameter, group)
        direction = torch.lerp(m, grad, 1 - beta1, out=self.scratch("direction", parameter)).sign_()
        parameter.add_(direction, alpha=-group["lr"])
        m.lerp_(grad, 1 - beta2)
