"""Moments of a training that a process tells of when they have come, for another to kill it then."""

import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mlp_lightning.training.callbacks.report import Report
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.checkpoint import AtomicCheckpointIO


class Moment(NamedTuple):
    """The first time that a kind of thing begins at a step, or later.

    ``start`` is the beginning of the process, ``finish`` the end of the training, before its last files and the test.
    """

    kind: Literal["start", "step", "validation", "checkpoint", "finish"]
    step: int = 0


def watch(moment: Moment, tell: Callable[[], Any]) -> None:
    """Call ``tell`` once, in the first process of a training, when the moment has come."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if moment.kind == "start":
        tell()
        return
    owner, name, step_of = _PLACES[moment.kind]
    original, told = getattr(owner, name), False

    def watched(*arguments: Any, **options: Any) -> Any:
        nonlocal told
        if not told and step_of(*arguments) >= moment.step:
            told = True
            tell()
        return original(*arguments, **options)

    setattr(owner, name, watched)


_PLACES: dict[str, tuple[type, str, Callable[..., int]]] = {
    "step": (MLPModule, "hand_step", lambda module, batch, step: step),
    "validation": (MLPModule, "validation_step", lambda module, *batch: module.global_step),
    "checkpoint": (AtomicCheckpointIO, "save_checkpoint", lambda io, checkpoint, *path: checkpoint["global_step"]),
    "finish": (Report, "on_fit_end", lambda report, trainer, module: trainer.global_step),
}
