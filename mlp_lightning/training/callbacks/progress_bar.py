"""The progress bar, which keeps up with groups of steps."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar


class GroupProgressBar(TQDMProgressBar):
    """Lightning's bar, refreshed at the first step it sees once ``refresh_rate`` steps have passed since the last time.

    Lightning's own is refreshed at multiples of ``refresh_rate``, at which a group need not end.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh, if it is time."""
        bar, n = self.train_progress_bar, batch_idx + 1
        if self.is_enabled and (n - bar.n >= self.refresh_rate or n == bar.total):
            bar.n = n
            bar.set_postfix(self.get_metrics(trainer, pl_module))  # which draws the bar

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the bar's line, so that the error has one of its own."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()
