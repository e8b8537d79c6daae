"""The curves of a training: means over windows of steps, gathered on the device, and their history."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.errors import UserError

History = dict[str, tuple[list[int], list[float]]]


class Curves:
    """Scalars by name over the steps of a training.

    ``add`` sums what each step measures, without reading it: a reading waits for the device, so it happens once a
    window, in ``means``. ``append`` keeps scalars in ``history``, name → (steps, values).
    """

    def __init__(self) -> None:
        self.history: History = {}
        self._sums: dict[str, list[Any]] = {}

    @property
    def pending(self) -> bool:
        """Whether anything was added since the last reading."""
        return bool(self._sums)

    def add(self, name: str, amount: Tensor, weight: float | Tensor) -> None:
        """Add to a mean: Σ amount / Σ weight over the window."""
        sums = self._sums.get(name)
        if sums is None:
            self._sums[name] = [amount, weight]
        else:
            sums[0] = sums[0] + amount
            sums[1] = sums[1] + weight

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last call, over all processes, whose sums ``reduce`` adds up; empty if none was added."""
        sums, self._sums = self._sums, {}
        if not sums:
            return {}
        device = next(iter(sums.values()))[0].device
        flat = [torch.as_tensor(part, device=device, dtype=torch.float64) for pair in sums.values() for part in pair]
        amounts, weights = reduce(torch.stack(flat)).view(-1, 2).t()
        return dict(zip(sums, (amounts / weights).tolist(), strict=True))

    def append(self, step: int, values: dict[str, float]) -> None:
        """Keep the values of one step.

        Raises:
            UserError: a value is not finite: the training has diverged, and ends before that spoils a checkpoint.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"model.lr: {name} became {value} by step {step}, the training has diverged; "
                    "choose a smaller learning rate or set model.clip_norm"
                )
            steps, series = self.history.setdefault(name, ([], []))
            steps.append(step)
            series.append(value)
