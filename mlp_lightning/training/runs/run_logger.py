"""The logger of a run: a folder of its own, or the folder of the run that resumes from one of its checkpoints."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

from mlp_lightning.errors import UserError
from mlp_lightning.files.atomic import remove_leftovers, written_beside
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.runs.event_files import go_back, synced_size
from mlp_lightning.training.runs.folder_lock import hold, is_abandoned
from mlp_lightning.training.runs.newest import EVENTS, Origin, note_start, version_of
from mlp_lightning.training.runs.run_folder import is_first, log_folder, tell, tensorboard_logger

# Seconds; nothing takes so long to write.
WRITTEN_WITHIN = 3600.0


class RunLogger(TensorBoardLogger):
    """A logger whose folder is its own, however many runs begin at once: making it is what claims its number.

    Args:
        logs: Where the runs of all configs are.
        name: The config's name.
        origin: The run whose curves continue here, if any.

    Attributes:
        carries_curves: Whether they were taken over, once the training has begun.
    """

    def __init__(self, logs: Path, name: str, origin: Origin | None = None) -> None:
        version = origin.version if origin is not None and origin.goes_on else None
        # With tensorboard's queue of 10 events a record of dozens of scalars waits for the disk.
        super().__init__(logs, name=name, version=version, default_hp_metric=False, max_queue=1000)
        self._origin = origin
        self.carries_curves = False

    @property
    def log_dir(self) -> str:
        """The run's folder by its very name: Lightning's would put the environment's HOME for a $HOME in it."""
        return str(Path(self.root_dir, f"version_{self.version}"))

    def begin(self, checkpoint: str | None) -> None:
        """Before a training: take the folder, and bring its curves to where they were at ``checkpoint``.

        Raises:
            UserError: another process trains in the folder.
        """
        folder = Path(self.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder)
        self._remove_leftovers(folder)
        if self._origin is None or checkpoint is None:
            note_start(folder, checkpoint)
            return
        # Read again: before the folder was taken, another process may have gone on in it.
        content = read_checkpoint(checkpoint)
        step, run = content["global_step"], self._origin.run
        if self._origin.goes_on:
            tell(f"logs: resumed in {folder} from step {step}")
        else:
            note_start(folder, checkpoint)
            tell(f"logs: {folder}, with the curves of {run} up to step {step}")
        go_back(run, content[EVENTS], folder)
        self.carries_curves = True
        # A TensorBoard that has been watching forgets the later steps too.
        self._kwargs["purge_step"] = step + 1

    def _remove_leftovers(self, own: Path) -> None:
        """Remove what killed runs of this config left half written."""
        for folder in Path(self.root_dir).glob("version_*"):
            age = 0.0 if folder == own or is_abandoned(folder) else WRITTEN_WITHIN
            for place in (folder, folder / "checkpoints"):
                remove_leftovers(place, age=age)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write numbers of one step as one event: of its own each would take as long as a small network's step."""
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        if numbers:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self.experiment._get_file_writer().add_summary(Summary(value=values), step)
        others = {name: value for name, value in metrics.items() if name not in numbers}
        if others:
            super().log_metrics(others, step)

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending, and the options if they are not there yet, whole."""
        self.experiment.flush()
        path = Path(self.log_dir, self.NAME_HPARAMS_FILE)
        if not path.is_file():
            with written_beside(path) as temporary:
                save_hparams_to_yaml(str(temporary), self.hparams)

    def _get_next_version(self) -> int:
        # Not Lightning's, which fails for a folder named version_².
        taken = [version_of(path.name) for path in Path(self.root_dir).glob("version_*")]
        number = max((number for number in taken if number is not None), default=-1) + 1
        # The other processes of a run are told its folder by the first.
        while is_first():
            try:
                Path(self.root_dir, f"version_{number}").mkdir()
                break
            except FileExistsError:
                number += 1
        return number


class EventsOfCheckpoints(pl.Callback):
    """Keeps in every checkpoint how far the events went when it was written."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write what is pending, and note how much there is."""
        logger = tensorboard_logger(trainer)
        if logger is not None:
            logger.experiment.flush()
            checkpoint[EVENTS] = synced_size(Path(logger.log_dir))


def make_logger(root: str | None, name: str, origin: Origin | None = None) -> RunLogger:
    """The logger of ``<root>/lightning_logs/<name>/version_N``, N the next free number; makes it at its first use.

    Args:
        root: ``trainer.default_root_dir``.
        name: The config's name.
        origin: The run whose curves go on, in its own folder if it says so.

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
    return RunLogger(logs, name, origin)
