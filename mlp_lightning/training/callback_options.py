"""Callbacks of Lightning that cannot do their work in a training by hand, and metrics that a callback waits for."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)

from mlp_lightning.errors import UserError

# A class, what is in its way, and what to use in its place; a subclass stands before its base.
REFUSED: tuple[tuple[type[Callback], str, str], ...] = (
    (
        StochasticWeightAveraging,
        "which averages once an epoch by a schedule that these steps do not follow",
        "use model.averaging swa",
    ),
    (EMAWeightAveraging, "which does not know the averages of this module", "use model.averaging ema"),
    (WeightAveraging, "which does not know the averages of this module", "use model.averaging ema or swa"),
    (
        GradientAccumulationScheduler,
        "which steps derived by hand do not see",
        "use trainer.accumulate_grad_batches, one number for all epochs",
    ),
    (
        LearningRateFinder,
        "whose schedule steps derived by hand do not follow",
        "use the command compare on configs with several values of model.lr",
    ),
    (BatchSizeFinder, "whose trial steps would stay in the training", "use data.batch_size"),
    (ModelPruning, "whose masks steps derived by hand do not see", "use model.l1, which makes weights 0"),
    (BaseFinetuning, "but all layers are one parameter, and none can be frozen", "leave it out"),
)


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Raise UserError for the first callback that would do nothing, or harm; it names the option to use."""
    for callback in callbacks:
        for kind, reason, advice in REFUSED:
            if isinstance(callback, kind):
                raise UserError(f"trainer.callbacks: got {type(callback).__name__}, {reason}; {advice}")
        if isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
            raise UserError(
                f"trainer.callbacks: got {type(callback).__name__} with train_time_interval, which Lightning ignores "
                "for steps derived by hand; use every_n_train_steps or every_n_epochs"
            )


def check_monitors(callbacks: Sequence[Callback], metrics: Sequence[str]) -> None:
    """Raise UserError for a callback that waits for a metric that nobody records.

    Args:
        callbacks: all of a trainer. One that is not Lightning's or ours may log metrics of its own: nothing is refused.
        metrics: that the module gives.
    """
    if not all(_is_of_libraries(callback) for callback in callbacks):
        return
    for callback in callbacks:
        monitor: Any = getattr(callback, "monitor", None)
        counted = ("epoch", "step") if isinstance(callback, ModelCheckpoint) else ()
        is_rate = isinstance(monitor, str) and monitor.startswith("lr-")
        if isinstance(monitor, str) and not is_rate and monitor not in (*metrics, *counted):
            meant = difflib.get_close_matches(monitor.replace("_", "/"), metrics, n=1, cutoff=0.5)
            guess = f", did you mean {meant[0]}" if meant else ""
            raise UserError(
                f"trainer.callbacks: got {type(callback).__name__} with monitor {monitor}{guess}? "
                f"There are {', '.join(metrics) or 'none'} in this training"
            )


def as_list(option: Any) -> list[Any]:
    """The elements of an option of the trainer that is a list, one element without one, or null."""
    if option is None:
        return []
    return list(option) if isinstance(option, list | tuple) else [option]


def _is_of_libraries(callback: Callback) -> bool:
    return type(callback).__module__.startswith(("lightning.", "mlp_lightning."))
