"""``python train.py fit``, as a user calls it: progress bar, logging, checkpoints and pictures on."""

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from networks import Digits

from mlp_lightning.cli.main import main
from peers.peer import AfterEpoch, Peer, Task, Unavailable

# Their "Seed set to 0" would come between the rows of a table.
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


def fit(options: Mapping[str, object], accelerator: str = "cpu") -> dict[str, Any]:
    """Run ``fit`` in this process on one device; returns the run's ``metrics.json``.

    Raises:
        Unavailable: the command refused an option.
    """
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        given = {**options, "trainer.accelerator": accelerator, "trainer.default_root_dir": root}
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                main(["fit", *(part for name, value in given.items() for part in (f"--{name}", str(value)))])
            except SystemExit as exit_:
                raise Unavailable(f"refused: {errors.getvalue().strip()}") from exit_
        (path,) = Path(root).glob("lightning_logs/*/*/metrics.json")
        metrics: dict[str, Any] = json.loads(path.read_text())
        return metrics


class FitCommand(Peer):
    """The command with its options.

    Its seconds are its own ``train_seconds``: the training steps with their logging and the progress bar, without
    validation.
    """

    def __init__(self, task: Task, data: Digits, precision: str = "32-true") -> None:
        super().__init__(task, data)
        self._options = {
            "trainer.max_epochs": task.epochs,
            "trainer.precision": precision,
            "model.hidden": list(task.sizes[1:-1]),
            "model.optimizer": task.optimizer,
            "model.lr": task.lr,
            "data.batch_size": task.batch_size,
            "data.validation_size": 60_000 - task.training_images,
        }

    def start(self, seed: int) -> None:
        """Is the command's own affair."""

    def epoch(self) -> None:
        """Is the command's own affair."""

    def train(self, seed: int, after_epoch: AfterEpoch) -> None:
        """Hand out the mean of the epochs, once."""
        metrics = fit({**self._options, "seed_everything": seed})
        self._accuracy = metrics["test/accuracy"]
        after_epoch(metrics["train_seconds"] / metrics["epochs"])

    def accuracy(self) -> float:
        """From the command's own test."""
        return self._accuracy
