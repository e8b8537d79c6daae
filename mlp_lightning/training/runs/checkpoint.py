"""Checkpoints that are whole or not there: written beside their target, sealed, synced, then renamed."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mlp_lightning.errors import UserError
from mlp_lightning.files.atomic import written_beside
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.files.regular import real
from mlp_lightning.files.write_checkpoint import write_checkpoint
from mlp_lightning.training.runs.own_files import own_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name in the same folder, so that no reader and no crash ever meets half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; raises UserError if the folder cannot be written."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the checkpoint on the CPU, as data only; raises UserError as ``read_checkpoint``."""
        # Processes that were spawned hand their weights back by a file of nothing else.
        return read_checkpoint(path, keys=())

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file, never a folder, which Lightning's would remove with all that is in it."""
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            Path(path).unlink()


class RunCheckpoint(ModelCheckpoint):
    """Lightning's, but a resumed run that has a folder of its own takes the file into it.

    Otherwise the best epoch before the interruption would be forgotten, and a run that ends early leave nothing.
    """

    # ``load_state_dict`` lets no path in.
    names_own_files = True
    _taken: Path | None = None
    _same_folder = False

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint, the same as Lightning's."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the file that is resumed from, or the best one beside it unless that is of a later step."""
        self._taken, self._same_folder = None, False
        if trainer.state.fn != "fit" or self.dirpath is None or trainer.ckpt_path is None:
            return
        source, target = Path(trainer.ckpt_path), Path(self.dirpath) / f"{self.filename}.ckpt"
        self._same_folder = real(source.parent) == real(target.parent)
        if self.monitor is not None:
            source = source.with_name(target.name)
        # A best one of a later step is trained once more, if it still is the best.
        if not _is_whole_by(source, checkpoint["global_step"]):
            return
        if trainer.is_global_zero and real(source) != real(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(target) as temporary:
                shutil.copyfile(source, temporary)
        self._taken = target

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the score with the file, or nothing."""
        path, score = "" if self._taken is None else str(self._taken), state_dict["best_model_score"]
        if self._taken is None and self._same_folder:
            # The same file, by another name where the command was given in another place.
            path = own_file(self.dirpath, state_dict["best_model_path"])
        if not path or (self.monitor is not None and (score is None or not score.isfinite())):
            return
        monitored = {} if self.monitor is None else {path: score}
        super().load_state_dict(
            {
                "dirpath": self.dirpath,
                "best_model_path": path,
                "best_model_score": score,
                "best_k_models": monitored,
                "kth_best_model_path": path if monitored else "",
                "kth_value": score if monitored else self.kth_value,
                "last_model_path": "",
            }
        )


def _is_whole_by(path: Path, step: int) -> bool:
    try:
        return read_checkpoint(path)["global_step"] <= step
    except UserError:
        return False


def checkpoint_callbacks() -> tuple[RunCheckpoint, RunCheckpoint]:
    """Keep ``best.ckpt``, the one of highest validation accuracy so far, and ``last.ckpt``, the last epoch's."""
    best = RunCheckpoint(filename="best", monitor="val/accuracy", mode="max")
    # Not ``save_last`` of the other: Lightning 2.6 writes that only when the epoch is the best so far.
    last = RunCheckpoint(filename="last", save_on_train_epoch_end=True)
    return best, last
