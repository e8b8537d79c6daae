"""A callback for ``fit``: how long the steps of each epoch take, with what is recorded between them."""

import time

import lightning.pytorch as pl
import torch

# Of the latest training: microseconds a step, epoch by epoch.
MICROSECONDS: list[float] = []


class EpochClock(pl.Callback):
    """From the start of an epoch to its validation."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the training before."""
        MICROSECONDS.clear()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._step, self._start = trainer.global_step, _now()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it."""
        MICROSECONDS.append((_now() - self._start) / (trainer.global_step - self._step) * 1e6)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
