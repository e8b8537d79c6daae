"""Where a run's files and TensorBoard events go."""

import json
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from mlp_lightning.atomic import written_beside
from mlp_lightning.errors import UserError


class RunLogger(TensorBoardLogger):
    """A logger whose folder is its own, however many runs begin at once: making it is what claims its number."""

    @property
    def log_dir(self) -> str:
        """The run's folder by its very name: Lightning's would put the environment's HOME for a $HOME in it."""
        return str(Path(self.root_dir, f"version_{self.version}"))

    def _get_next_version(self) -> int:
        number = super()._get_next_version()
        # The other processes of a run are told its folder by the first.
        while is_first():
            try:
                Path(self.root_dir, f"version_{number}").mkdir()
                break
            except FileExistsError:
                number += 1
        return number


def make_logger(root: str | None, name: str) -> TensorBoardLogger:
    """The logger of ``<root>/lightning_logs/<name>/version_N``, N the next free number; makes it at its first use.

    Raises:
        UserError: the folder cannot be made.
    """
    logs = log_folder(root)
    try:
        (logs / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"trainer.default_root_dir: got {root or '.'}, but {logs / name} cannot be made: {error.strerror}"
        ) from error
    if not os.access(logs / name, os.W_OK):
        raise UserError(f"trainer.default_root_dir: got {root or '.'}, but {logs / name} cannot be written")
    # With tensorboard's queue of 10 events a record of dozens of scalars waits for the disk.
    return RunLogger(logs, name=name, default_hp_metric=False, max_queue=1000)


def is_first() -> bool:
    """Whether this is the first process of its run, before there is a trainer to ask."""
    return getattr(rank_zero_only, "rank", 0) == 0


def tell(*lines: str) -> None:
    """Print lines, once for all processes of a run."""
    if is_first():
        for line in lines:
            print(line, flush=True)


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
