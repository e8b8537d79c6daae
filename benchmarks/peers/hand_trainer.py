"""The project's own module and data under Lightning's trainer, with a clock and a test after every epoch."""

import tempfile
from pathlib import Path

import torch
import yaml
from lightning.pytorch.callbacks import TQDMProgressBar
from networks import Digits

from mlp_lightning.data.module import DataModule
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.run_logger import make_logger
from mlp_lightning.training.trainer import Trainer
from peers.epoch_clock import BARE, EpochClock
from peers.peer import AfterEpoch, Peer, Task


class HandTrainer(Peer):
    """What ``fit --config`` does, without validation, checkpoints and pictures; log and progress bar stay on."""

    def __init__(self, task: Task, data: Digits) -> None:
        super().__init__(task, data)
        assert task.config is not None
        self._options = yaml.safe_load(Path(task.config).read_text())

    def start(self, seed: int) -> None:
        """Is the trainer's affair."""

    def epoch(self) -> None:
        """Is the trainer's affair."""

    def train(self, seed: int, after_epoch: AfterEpoch) -> None:
        """A new trainer each time; which images are held out depends on the seed as well."""
        data_module = DataModule(**self._options["data"], seed=seed)
        self._module = MLPModule(**self._options["model"], seed=seed)
        with tempfile.TemporaryDirectory() as root:
            trainer = Trainer(
                **BARE,
                **self._options["trainer"],
                callbacks=[EpochClock(after_epoch), TQDMProgressBar(refresh_rate=50)],
                logger=make_logger(root, "race"),
            )
            trainer.fit(self._module, data_module)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Of the module's network."""
        logits, _ = self._module.network(self.data.test_x)
        return (logits.argmax(1) == self.data.test_y).float().mean().item()
