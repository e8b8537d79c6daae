"""Checkpoints that are whole or not there: written beside their target, sealed, synced, then renamed."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mlp_lightning.atomic import written_beside
from mlp_lightning.checkpoint_file import FORMAT_KEY, read_checkpoint
from mlp_lightning.errors import UserError
from mlp_lightning.seal import FORMAT, SealingFile


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name in the same folder, so that no reader and no crash ever meets half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; raises UserError if the folder cannot be written."""
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(target) as temporary, temporary.open("wb") as file:
                sealing = SealingFile(file)
                # All that torch asks of a file is to write and to flush.
                try:
                    torch.save({**checkpoint, FORMAT_KEY: FORMAT}, sealing)  # type: ignore[arg-type]
                except RuntimeError:
                    # Torch wants to end the file in spite of it, and fails by what that means to it.
                    if sealing.failure is not None:
                        raise sealing.failure from None
                    raise
                sealing.seal()
        except OSError as error:
            raise UserError(f"checkpoint {target} cannot be written: {error.strerror}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the checkpoint on the CPU, as data only; raises UserError as ``read_checkpoint``."""
        return read_checkpoint(path)


def checkpoint_callbacks() -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Keep ``best.ckpt``, the one of highest validation accuracy so far, and ``last.ckpt``, the last epoch's."""
    best = ModelCheckpoint(filename="best", monitor="val/accuracy", mode="max")
    # Not ``save_last`` of the other: Lightning 2.6 writes that only when the epoch is the best so far.
    last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True)
    return best, last
