"""What it costs to train on a file that is larger than the memory it may take, over the same samples in memory.

    python benchmarks/streaming.py [--rounds 5] [--samples 50000]

``fit`` of the notebook's network at batch 64, Adam, shuffled, on float32 images in a .npy file four times as large as
``data.memory_budget``, against the same file with a budget that holds it: whole epochs with Lightning's loop, without
validation. The rows take turns in one process. "In the system's cache" is what a second epoch meets if the machine has
memory to spare; for "from disk" the system is asked to drop the file before each training (it may drop less).
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from networks import NOTEBOOK, digits
from results import Benchmark
from timing import in_turn, ratio, spread

from mlp_lightning.data.module import DataModule
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.quiet import quiet_lightning
from mlp_lightning.training.trainer import Trainer

BUDGETS = 4


class Clock(pl.Callback):
    """Seconds from the first training step to the last."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self._start


def write_arrays(folder: Path, samples: int) -> int:
    """Training and test arrays; the bytes of the training samples."""
    data = digits(samples)
    x, y = data.train_x.numpy(), data.train_y.numpy()
    for name, array in (("x_train", x), ("y_train", y), ("x_test", x[:100]), ("y_test", y[:100])):
        np.save(folder / f"{name}.npy", array)
    return x.nbytes


def drop_from_cache(path: Path) -> None:
    """Ask the system to forget the file's contents, which are on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_of_fit(folder: Path, budget: float, *, cold: bool) -> float:
    """Seconds of one epoch's training steps, with the reading that they wait for."""
    data = DataModule(dataset="arrays", root=str(folder), memory_budget=budget, validation="none", batch_size=64)
    data.setup("fit")
    if cold:
        drop_from_cache(folder / "x_train.npy")
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[clock],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        logger=False,
        max_epochs=1,
    )
    trainer.fit(MLPModule(hidden=list(NOTEBOOK[1:-1])), data)
    return clock.seconds


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=5)
    benchmark.parser.add_argument("--samples", type=int, default=50_000)
    options = benchmark.start()
    quiet_lightning()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    samples = 4000 if options.quick else options.samples
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        megabytes = write_arrays(folder, samples) / 1e6
        small, large = megabytes / BUDGETS, 2 * megabytes
        rows: dict[str, Callable[[], float]] = {
            "in memory": lambda: seconds_of_fit(folder, large, cold=False),
            "streamed, in the system's cache": lambda: seconds_of_fit(folder, small, cold=False),
            "streamed, from disk": lambda: seconds_of_fit(folder, small, cold=True),
        }
        print(f"{samples} samples, {megabytes:.0f} MB, budget {small:.0f} MB\n")
        seconds = in_turn(rows, options.rounds, benchmark.calm)
    for row, values in seconds.items():
        # Speed is the reciprocal of time.
        share = ratio(seconds["in memory"], values)
        line = f"{row:34} {spread(values)} s an epoch, speed {share} of that in memory"
        benchmark.row(line, name=row, seconds=values, speed=share._asdict(), budget=small, megabytes=megabytes)
    benchmark.finish()


if __name__ == "__main__":
    run()
