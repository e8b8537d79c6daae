"""The callback that keeps a run's options in ``config.yaml``."""

from contextlib import nullcontext
from enum import Enum
from pathlib import Path

import lightning.pytorch as pl
import yaml
from lightning.pytorch.cli import SaveConfigCallback

from mlp_lightning.files.atomic import written_beside

# Defaults of Lightning's callbacks, such as Timer's interval, are words of an enumeration: a config holds the word.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, word: dumper.represent_data(word.value))


class SaveWholeConfig(SaveConfigCallback):
    """Lightning's, but the file is whole at every moment: a resumed run replaces the earlier file."""

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
