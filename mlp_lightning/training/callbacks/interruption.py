"""Ctrl-C and the signals that end a job: training stops at a step from which it resumes to the last bit."""

import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment

from mlp_lightning.invocation import program

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal ended the command; no error, and nothing to be handled on the way out.

    Args:
        signal_number: which one.
        checkpoint: what was saved to resume from, if anything was.
        step: the step at which that is.

    Attributes:
        kept: what the run had saved before the signal, the file to use first.
        trained: whether the training was over.
    """

    def __init__(self, signal_number: int, checkpoint: Path | None = None, step: int | None = None) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.checkpoint = checkpoint
        self.step = step
        self.kept: list[Path] = []
        self.trained = False

    @property
    def status(self) -> int:
        """The exit status by which a shell knows a command that a signal ended."""
        return 128 + self.signal_number

    def message(self, arguments: Sequence[str]) -> str:
        """One line: what is left, and how to continue the command of these arguments."""
        if self.checkpoint is not None:
            return f"stopped at step {self.step}; to resume: {with_checkpoint(arguments, self.checkpoint)}"
        if not self.kept:
            return "stopped; no checkpoint was written by it"
        if not self.trained:
            command = with_checkpoint(arguments, self.kept[0])
            return f"stopped at once; to resume from the newest checkpoint: {command}"
        files = " and ".join(str(path) for path in self.kept)
        fit = list(arguments).index("fit") if "fit" in arguments else 0
        command = with_checkpoint([*arguments[:fit], "test", *arguments[fit + 1 :]], self.kept[0])
        return f"stopped after the training, which left {files}; to test: {command}"


def with_checkpoint(arguments: Sequence[str], checkpoint: Path) -> str:
    """The command of these arguments with another ``--ckpt_path``."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument.partition("=")[0] != "--ckpt_path":
            kept.append(argument)
        skip = not skip and argument == "--ckpt_path"
    return f"{program()} {shlex.join([*kept, '--ckpt_path', str(checkpoint)])}"


def _stop_at_once(signal_number: int, frame: FrameType | None) -> None:
    raise Stopped(signal_number)


@contextmanager
def stopping_signals() -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM raise Stopped, but in a training that can note them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop_at_once) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interruption(Checkpoint):
    """Notes Ctrl-C and SIGTERM, and at the next step that is fit for it saves ``last.ckpt`` and raises Stopped.

    That is the end of the running group of steps, or of the validation or epoch that ends with it: a checkpoint between
    a step and the validation due after it would lose the validation. A second signal raises at once; files are written
    beside their place, so that none is broken. SLURM's signal to requeue the job waits likewise: within a group the
    counters are behind the weights. One process that has noted a signal stops all.

    Args:
        last: whose file is written; None where no checkpoints are kept.
    """

    def __init__(self, last: ModelCheckpoint | None) -> None:
        self._last = last
        self._noted = 0
        self._requeues = 0
        self._requeue: Any = None
        self.trained = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which would save nothing; it puts the old handlers back at its end."""
        self._noted = self._requeues = 0
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOPPING:
            signal.signal(number, self._note)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            self._requeue = signal.signal(environment.requeue_signal, self._note_requeue)

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        if self._noted:
            raise Stopped(signal_number)
        self._noted = signal_number

    def _note_requeue(self, signal_number: int, frame: FrameType | None) -> None:
        self._requeues = signal_number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a step that nothing is due after."""
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        if not loop._is_training_done and not loop._should_check_val_fx(fetcher):  # type: ignore[arg-type]
            self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after a validation within an epoch."""
        if (
            trainer.state.fn == "fit"
            and not trainer.sanity_checking
            and not trainer.fit_loop.epoch_loop._is_training_done
        ):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after an epoch, unless the training is over with it."""
        if not trainer.should_stop:
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the test; ``last.ckpt`` is that of the last epoch. From here on a signal ends at once."""
        self._agree(trainer)
        if self._noted:
            raise Stopped(self._noted, self._file(trainer), trainer.global_step)
        self.trained = True
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                signal.signal(number, _stop_at_once)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where nothing was left to train, no training has ended."""
        self.trained = True

    def _stop(self, trainer: pl.Trainer) -> None:
        self._agree(trainer)
        if self._requeues:
            number, self._requeues = self._requeues, 0
            self._requeue(number, None)
        if not self._noted:
            return
        path = self._file(trainer)
        if path is not None:
            trainer.save_checkpoint(path, weights_only=False)
        raise Stopped(self._noted, path, trainer.global_step)

    def _agree(self, trainer: pl.Trainer) -> None:
        if trainer.world_size > 1:
            noted = torch.tensor([self._noted, self._requeues], device=trainer.strategy.root_device)
            torch.distributed.all_reduce(noted, torch.distributed.ReduceOp.MAX)
            self._noted, self._requeues = noted.tolist()

    def _file(self, trainer: pl.Trainer) -> Path | None:
        """What ``last`` would write next, which is no file of another run."""
        last = self._last
        if last is None:
            return None
        return Path(last._get_metric_interpolated_filepath_name({}, trainer, last.best_model_path))
