"""Checkpoints that are whole or not there: written beside their target, synced, then renamed."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mlp_lightning.atomic import written_beside
from mlp_lightning.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name in the same folder, so that no reader and no crash ever meets half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; raises UserError if the folder cannot be written."""
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(target) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except OSError as error:
            raise UserError(f"checkpoint {target} cannot be written: {error.strerror}") from error


def checkpoint_callbacks() -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Keep ``best.ckpt``, the one of highest validation accuracy so far, and ``last.ckpt``, the last epoch's."""
    best = ModelCheckpoint(filename="best", monitor="val/accuracy", mode="max")
    # Not ``save_last`` of the other: Lightning 2.6 writes that only when the epoch is the best so far.
    last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True)
    return best, last
