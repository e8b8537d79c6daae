"""The curves of a training: means over windows of steps, gathered on the device, and their history."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.errors import UserError

History = dict[str, tuple[list[int], list[float]]]


class Curves:
    """Scalars by name over the steps of a training.

    ``add`` sums what each step measures, without reading it: a reading waits for the device, so it happens once a
    window, of what ``take`` returns. ``append`` keeps scalars in ``history``, name → (steps, values).
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
        """Whether anything was added since the last ``take``."""
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
        """The sums since the last ``take``, over all processes, for a checkpoint between two of them."""
        return {
            name: [reduce(_as_tensor(part, self._device).clone()) for part in pair] for name, pair in self._sums.items()
        }

    def resume(self, window: dict[str, list[Tensor]]) -> None:
        """Take up the sums of ``window``."""
        self._sums = {name: list(pair) for name, pair in window.items()}

    def take(self, reduce: Callable[[Tensor], Tensor]) -> tuple[list[str], Tensor]:
        """The names that were added since the last call, and their sums over all processes for ``means``.

        Args:
            reduce: adds up a tensor over all processes.
        """
        device, sums, self._sums = self._device, self._sums, {}
        if not sums:
            return [], torch.zeros(0)
        flat = [_as_tensor(part, device).to(torch.float64) for pair in sums.values() for part in pair]
        return [*sums], reduce(torch.stack(flat))

    def append(self, step: int, values: dict[str, float]) -> None:
        """Keep the values of one step; raises UserError as ``check_finite``."""
        check_finite(step, values)
        for name, value in values.items():
            steps, series = self.history.setdefault(name, ([], []))
            steps.append(step)
            series.append(value)


def means(names: Sequence[str], sums: Sequence[float]) -> dict[str, float]:
    """The means that ``Curves.take`` left to be read; a name with weight 0 alone has none."""
    pairs = zip(names, sums[::2], sums[1::2], strict=True)
    return {name: amount / weight for name, amount, weight in pairs if weight}


def _as_tensor(part: float | Tensor, device: torch.device) -> Tensor:
    """A number keeps all its digits, and is written by the device, which a copy to it would wait for."""
    if isinstance(part, Tensor):
        return part.to(device)
    return torch.full((), part, dtype=torch.float64, device=device)


def check_finite(step: int, values: dict[str, float]) -> None:
    """End a training that has diverged, before that spoils a checkpoint.

    Raises:
        UserError: a value is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value) and name.startswith("test/"):
            # Nothing is trained then.
            raise UserError(
                f"{name} is {value}: the weights, or the numbers of a sample of the test set, are too large"
            )
        if not math.isfinite(value):
            raise UserError(
                f"model.lr: {name} became {value} by step {step}, the training has diverged; "
                "choose a smaller learning rate or set model.clip_norm"
            )
