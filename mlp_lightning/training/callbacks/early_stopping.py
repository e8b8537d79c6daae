"""Early stopping that a resumed training takes up where it stood."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping


class Patience(EarlyStopping):
    """Lightning's, but a training that had stopped stays so, and the patience given now counts."""

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint, the same as Lightning's."""
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was counted, not the limit."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End what the checkpoint's training would have ended."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
