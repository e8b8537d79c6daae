"""The callback that keeps a run's options in ``config.yaml``."""

from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback

from mlp_lightning.atomic import written_beside


class SaveWholeConfig(SaveConfigCallback):
    """Lightning's, but the file is whole at every moment: where a run goes on, it takes the place of an earlier one."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write it, at the first call."""
        if self.already_saved:
            return
        # Asked of every process, since the first tells it the others.
        folder = Path(trainer.log_dir or ".")
        name = self.config_filename
        with written_beside(folder / name) if trainer.is_global_zero else nullcontext() as temporary:
            self.config_filename = name if temporary is None else temporary.name
            super().setup(trainer, pl_module, stage)
        self.config_filename = name
