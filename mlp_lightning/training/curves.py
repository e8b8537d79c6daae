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
    def _device(self) -> torch.device:
        """Where the processes sum: that of the first tensor, since numbers come from processors alone."""
        parts = (part for pair in self._sums.values() for part in pair)
        return next((part.device for part in parts if isinstance(part, Tensor)), torch.device("cpu"))

    @property
    def pending(self) -> bool:
        """Whether anything was added since the last reading."""
        return bool(self._sums)

    def add(self, name: str, amount: float | Tensor, weight: float | Tensor) -> None:
        """Add to a mean: Σ amount / Σ weight over the window."""
        sums = self._sums.get(name)
        if sums is None:
            self._sums[name] = [amount, weight]
        else:
            sums[0] = sums[0] + amount
            sums[1] = sums[1] + weight

    def window(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, list[Tensor]]:
        """The sums since the last reading, over all processes, for a checkpoint between two readings."""
        return {
            name: [reduce(_as_tensor(part, self._device).clone()) for part in pair] for name, pair in self._sums.items()
        }

    def go_on(self, window: dict[str, list[Tensor]]) -> None:
        """Take up the sums of ``window``."""
        self._sums = {name: list(pair) for name, pair in window.items()}

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last call, over all processes, whose sums ``reduce`` adds up.

        A name that was not added, or with weight 0 alone, has none.
        """
        device, sums, self._sums = self._device, self._sums, {}
        if not sums:
            return {}
        flat = [_as_tensor(part, device).to(torch.float64) for pair in sums.values() for part in pair]
        pairs = reduce(torch.stack(flat)).view(-1, 2).tolist()
        return {name: amount / weight for name, (amount, weight) in zip(sums, pairs, strict=True) if weight}

    def append(self, step: int, values: dict[str, float]) -> None:
        """Keep the values of one step; raises UserError as ``check_finite``."""
        check_finite(step, values)
        for name, value in values.items():
            steps, series = self.history.setdefault(name, ([], []))
            steps.append(step)
            series.append(value)


def _as_tensor(part: float | Tensor, device: torch.device) -> Tensor:
    """A number keeps all its digits."""
    dtype = None if isinstance(part, Tensor) else torch.float64
    return torch.as_tensor(part, device=device, dtype=dtype)


def check_finite(step: int, values: dict[str, float]) -> None:
    """End a training that has diverged, before that spoils a checkpoint.

    Raises:
        UserError: a value is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"model.lr: {name} became {value} by step {step}, the training has diverged; "
                "choose a smaller learning rate or set model.clip_norm"
            )
