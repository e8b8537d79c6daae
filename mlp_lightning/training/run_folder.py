"""Where a run's files and TensorBoard events go."""

import json
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from mlp_lightning.atomic import written_beside
from mlp_lightning.errors import UserError


def make_logger(root: str | None, name: str) -> TensorBoardLogger:
    """The logger of ``<root>/lightning_logs/<name>/version_N``, N the next free number.

    Raises:
        UserError: the folder cannot be made.
    """
    logs = Path(root or ".") / "lightning_logs"
    try:
        (logs / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"trainer.default_root_dir: got {root or '.'}, but {logs / name} cannot be made: {error.strerror}"
        ) from error
    if not os.access(logs / name, os.W_OK):
        raise UserError(f"trainer.default_root_dir: got {root or '.'}, but {logs / name} cannot be written")
    # With tensorboard's queue of 10 events a record of dozens of scalars waits for the disk.
    return TensorBoardLogger(logs, name=name, default_hp_metric=False, max_queue=1000)


def tensorboard_logger(trainer: pl.Trainer) -> TensorBoardLogger | None:
    """The trainer's TensorBoard logger; None on other ranks than 0 and where logging is off."""
    if not trainer.is_global_zero:
        return None
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def tensorboard(trainer: pl.Trainer) -> SummaryWriter | None:
    """The writer of this run's events, as ``tensorboard_logger``."""
    logger = tensorboard_logger(trainer)
    return None if logger is None else logger.experiment


def run_folder(trainer: pl.Trainer) -> Path | None:
    """The run's folder, made on demand, as ``tensorboard_logger``."""
    logger = tensorboard_logger(trainer)
    if logger is None:
        return None
    folder = Path(logger.log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` so that the file is whole at every moment."""
    with written_beside(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
