"""Where a run's files and TensorBoard events go."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from mlp_lightning.files.atomic import written_beside
from mlp_lightning.printable import printable


def is_first() -> bool:
    """Whether this is the first process of its run, before there is a trainer to ask."""
    return getattr(rank_zero_only, "rank", 0) == 0


def tell(*lines: str) -> None:
    """Print lines, once for all processes of a run."""
    if is_first():
        for line in lines:
            print(printable(line), flush=True)


def log_folder(root: str | None) -> Path:
    """Where the runs of all configs are."""
    return Path(root or ".").expanduser() / "lightning_logs"


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
