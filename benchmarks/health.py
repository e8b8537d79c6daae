"""What the health callback costs: the training steps of ``adam.yaml`` with it over those without it, one thread.

    python benchmarks/health.py [--epochs 1] [--rounds 7] [--every 50]

Both take turns in one process, each with its TensorBoard log. Processor time is counted, not wall time: with one thread
they are the same on an idle machine, and on a busy one the ratio still holds.
"""

import argparse
import statistics
import tempfile
import time

import lightning.pytorch as pl
import torch
from machine import machine

from mlp_lightning.cli.main import HEALTH_EVERY_N_RECORDS
from mlp_lightning.data.module import DataModule
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.quiet import quiet_lightning
from mlp_lightning.training.runs.run_logger import make_logger
from mlp_lightning.training.trainer import Trainer


class Clock(pl.Callback):
    """Processor seconds from the first training step to the last."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._start = time.process_time()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self.seconds = time.process_time() - self._start


def fit(data: DataModule, epochs: int, every: int, callbacks: list[pl.Callback]) -> float:
    """Seconds an epoch of training steps and their logging."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as root:
        trainer = Trainer(
            accelerator="cpu",
            callbacks=[*callbacks, clock],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            limit_val_batches=0,
            log_every_n_steps=every,
            logger=make_logger(root, "health"),
            max_epochs=epochs,
        )
        trainer.fit(MLPModule(schedule="cosine", warmup_epochs=0.5), data)
    return clock.seconds / epochs


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=50, help="trainer.log_every_n_steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_lightning()
    data = DataModule(batch_size=128)
    fit(data, 1, options.every, [Health(HEALTH_EVERY_N_RECORDS)])
    rows = [
        (
            fit(data, options.epochs, options.every, []),
            fit(data, options.epochs, options.every, [Health(HEALTH_EVERY_N_RECORDS)]),
        )
        for _ in range(options.rounds)
    ]
    print(f"\n{machine()}\nepochs a fit: {options.epochs}, rounds: {options.rounds}, steps a record: {options.every}\n")
    without = statistics.median(row[0] for row in rows)
    for name, column in (("without", 0), ("with health", 1)):
        values = sorted(row[column] for row in rows)
        median = statistics.median(values)
        print(f"{name:12} {median:.2f} s an epoch ({values[0]:.2f} to {values[-1]:.2f}), ratio {median / without:.3f}")


if __name__ == "__main__":
    run()
