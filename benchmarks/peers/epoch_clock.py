"""The shared clock as a callback, for the contenders whose loop is Lightning's."""

import time
from typing import Any

import lightning.pytorch as pl

from peers.peer import AfterEpoch

# What every trainer of a race gets: nothing to restore, nothing to validate.
BARE: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
}


class EpochClock(pl.Callback):
    """Hands out each epoch's seconds, and ends the training where the answer is true."""

    def __init__(self, after_epoch: AfterEpoch) -> None:
        self._after_epoch = after_epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read, and start again: what lies between two epochs belongs to the later one."""
        trainer.should_stop = self._after_epoch(time.perf_counter() - self._start)
        self._start = time.perf_counter()
