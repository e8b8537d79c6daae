"""Checkpoints that are whole or not there: written beside their target, synced, then renamed; read as data only."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mlp_lightning.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name in the same folder, so that no reader and no crash ever meets half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; raises UserError if the folder cannot be written."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            raise UserError(f"checkpoint {target} cannot be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)


def checkpoint_callback() -> ModelCheckpoint:
    """Keep ``last.ckpt`` and ``best.ckpt``, the one of highest validation accuracy so far."""
    return ModelCheckpoint(filename="best", monitor="val/accuracy", mode="max", save_last=True)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read one of this project's checkpoints on the CPU, without running any code in it.

    Raises:
        UserError: no such file, or one that is broken, carries code or comes from elsewhere.
    """
    if not Path(path).is_file():
        raise UserError(f"--ckpt_path: there is no file {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken byte happened to mean
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--ckpt_path: {path} is not a readable checkpoint ({reason})") from error
    missing = [key for key in ("state_dict", "hyper_parameters", "sizes", "history") if key not in checkpoint]
    if missing:
        raise UserError(f"--ckpt_path: {path} is not a checkpoint of this trainer, it has no {', '.join(missing)}")
    return checkpoint
