"""How long a training is: one answer for its deformations, its schedule and its averages."""

import math
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import lightning.pytorch as pl


class Length(NamedTuple):
    """The length of a whole training, counted from its first step.

    Args:
        steps_per_epoch: updates in an epoch; the last one may have fewer minibatches than the others.
        steps: updates in all; infinite for a training without an end.
        epochs: epochs in all, at least 1, also where ``max_steps`` ends the last one early; infinite likewise.
    """

    steps_per_epoch: int
    steps: float
    epochs: float


def length_of(trainer: "pl.Trainer", minibatches: int) -> Length:
    """What ``max_epochs`` and ``max_steps`` allow, whichever ends first.

    What nobody can know before the training is not counted: ``max_time``, early stopping, and signals.

    Args:
        trainer: with its limits; steps are updates, of ``accumulate_grad_batches`` minibatches each.
        minibatches: of an epoch over all devices, after ``limit_train_batches``.
    """
    # Lightning's own trainer leaves accumulation to the module, and knows no such number.
    steps_per_epoch = math.ceil(minibatches / getattr(trainer, "minibatches_per_update", 1))
    ends: list[float] = []
    if trainer.max_epochs not in (None, -1):
        ends.append(max(trainer.max_epochs, 1) * steps_per_epoch)
    if trainer.max_steps != -1:
        ends.append(trainer.max_steps)
    steps = min(ends, default=math.inf)
    epochs = steps if math.isinf(steps) else max(1, math.ceil(steps / max(1, steps_per_epoch)))
    return Length(steps_per_epoch, steps, epochs)


def limited(minibatches: int, limit: int | float) -> int:
    """How many of an epoch's minibatches ``limit_train_batches`` leaves: a count, or a share of them."""
    return min(minibatches, limit) if isinstance(limit, int) else whole_part(limit, minibatches)


def whole_part(share: float, n: int) -> int:
    """⌊share · n⌋, where the share is the number that was meant: 0.29 of 100 are 29, though 0.29 · 100 is below 29.

    No float is 0.29. Where k of n is the float given, k of n was meant.

    Args:
        share: at least 0.
        n: at least 0.
    """
    k = round(share * n)
    return k if n and k / n == share else math.floor(Fraction(share) * n)


class Share(float):
    """A share of minibatches for Lightning, which takes ``int(n * share)``: then it is ``whole_part(share, n)``."""

    def __rmul__(self, n: int) -> int:  # type: ignore[override]
        """⌊n · share⌋."""
        return whole_part(float(self), n)
