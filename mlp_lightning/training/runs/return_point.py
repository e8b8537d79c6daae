"""The checkpoint that a training whose numbers went wrong can return to, and none that could not serve as one."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.files.regular import modified


def newest_finite(trainer: pl.Trainer) -> Path | None:
    """The training's newest checkpoint that is whole and finite, else what it was resumed from; None for neither."""
    ages: dict[Path, int] = {}
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    for folder in {callback.dirpath for callback in callbacks if callback.dirpath}:
        ages |= {path: age for path in Path(folder).glob("*.ckpt") if (age := modified(path)) is not None}
    found = sorted(ages, key=lambda path: -ages[path])
    if trainer.ckpt_path is not None:
        found.append(Path(trainer.ckpt_path))
    return next((path for path in found if _serves(path, trainer.global_step)), None)


def _serves(path: Path, step: int) -> bool:
    try:
        checkpoint = read_checkpoint(path)
    except UserError:
        return False
    # The folder may hold what another training left in it.
    return checkpoint["global_step"] <= step and first_not_finite(checkpoint) is None


def first_not_finite(checkpoint: dict[str, Any]) -> str | None:
    """The name of the first tensor, of the weights, their averages or the optimizer's state, that is not finite."""
    return next((name for name, tensor in _tensors(checkpoint) if not _is_finite(tensor)), None)


def _is_finite(tensor: Tensor) -> bool:
    # A sum is made in a tenth of the time, but may overflow.
    return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())


def _tensors(checkpoint: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    yield from checkpoint["state_dict"].items()
    for optimizer in checkpoint.get("optimizer_states", ()):
        for state in optimizer["state"].values():
            yield from (
                (f"the optimizer's {name}", value) for name, value in state.items() if isinstance(value, Tensor)
            )


def check_state(step: int, checkpoint: dict[str, Any]) -> None:
    """Refuse to write a checkpoint that is not finite; raises NotFinite."""
    name = first_not_finite(checkpoint)
    if name is not None:
        raise NotFinite(
            f"step {step} is not finite: {name} is not finite after it; likely cause: gradients whose squares overflow"
        )
