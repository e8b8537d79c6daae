"""Train again and again in one process, and tell what grows: resident memory, open files, threads.

    python benchmarks/leaks.py [--minutes 60]

Each round is a run of the command line, ``fit`` on deformed MNIST with groups of steps, validation, checkpoints and
pictures, and a second that goes on from its checkpoint. Every few seconds a sample is taken. Those of one round are
averaged: within a round they rise and fall alike, so that they are no independent ones. The first quarter of the time
is left out, since libraries load and freed memory is kept up to the largest need (``training/freed_memory.py``). A line
is fitted by least squares; exit status 1 if a slope is above its limit by more than twice its standard error.
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from mlp_lightning.cli import main as cli

MIB = 2**20
WARM_UP = 0.25
# Rounds at least after the warm-up: a line through two points knows nothing of its error.
ROUNDS = 4
FIT = [
    *("fit", "--config", "adam.yaml", "--trainer.accelerator", "cpu", "--trainer.limit_train_batches", "60"),
    *("--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2", "--trainer.log_every_n_steps", "10"),
    *("--model.hidden", "[64]", "--model.averaging", "ema", "--data.batch_size", "64", "--data.deform.elastic", "2"),
]


class Quantity(NamedTuple):
    """What is sampled, and how much an hour it may grow."""

    name: str
    limit: float


QUANTITIES = (Quantity("resident memory, MiB", 16.0), Quantity("open files", 1.0), Quantity("threads", 1.0))


class Slope(NamedTuple):
    """Growth an hour, and its standard error."""

    value: float
    error: float

    def exceeds(self, limit: float) -> bool:
        """Whether it is above the limit by more than chance."""
        return self.value - 2 * self.error > limit


def sample() -> tuple[float, ...]:
    """The quantities now, of this process; Linux alone tells."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd")) - 1  # that of the listing itself
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB, files, len(os.listdir("/proc/self/task"))


def slope(hours: ArrayLike, values: ArrayLike) -> Slope:
    """The least-squares line's; at least three points."""
    t, y = np.asarray(hours, float), np.asarray(values, float)
    t, y = t - t.mean(), y - y.mean()
    spread = t @ t
    value = t @ y / spread
    residual = y - value * t
    return Slope(float(value), float(np.sqrt(residual @ residual / (len(t) - 2) / spread)))


class Sampler(threading.Thread):
    """Samples every few seconds, and once at the end of each round."""

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self._seconds = seconds
        self._samples: list[tuple[float, ...]] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            time.sleep(self._seconds)
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            self._samples.append((time.monotonic() / 3600, *sample()))

    def take(self) -> tuple[float, ...]:
        """The mean hour and quantities of the samples since the last call."""
        self._sample()
        with self._lock:
            samples, self._samples = self._samples, []
        return tuple(np.mean(samples, axis=0))


def train(folder: Path) -> None:
    """A run that ends, and goes on."""
    fit = [*FIT, "--trainer.default_root_dir", str(folder)]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        cli.main([*fit, "--trainer.max_epochs", "2"])
        cli.main([*fit, "--trainer.max_epochs", "3", "--ckpt_path", "last"])


def report(rounds: list[tuple[float, ...]]) -> bool:
    """Print the slopes; whether one is too steep."""
    hours, *columns = np.array(rounds).T
    print(f"{'':22}{'first':>9}{'last':>9}{'an hour':>10}{'± error':>9}{'limit':>8}")
    grows = False
    for quantity, values in zip(QUANTITIES, columns, strict=True):
        found = slope(hours, values)
        verdict = "  grows" if found.exceeds(quantity.limit) else ""
        grows = grows or bool(verdict)
        print(
            f"{quantity.name:22}{values[0]:9.1f}{values[-1]:9.1f}{found.value:10.2f}{found.error:9.2f}"
            f"{quantity.limit:8.1f}{verdict}"
        )
    return grows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long to train (default 60)")
    parser.add_argument("--every", type=float, default=3, help="seconds between two samples (default 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    sampler = Sampler(options.every)
    sampler.start()
    begun = told = time.monotonic()
    rounds: list[tuple[float, ...]] = []
    n_warm_up = 0
    while time.monotonic() - begun < 60 * options.minutes or len(rounds) < ROUNDS:
        with tempfile.TemporaryDirectory(prefix="leaks-") as folder:
            train(Path(folder))
        rounds.append(sampler.take())
        if time.monotonic() - begun < 60 * WARM_UP * options.minutes:
            rounds, n_warm_up = [], n_warm_up + 1
        elif time.monotonic() - told > 300:
            told = time.monotonic()
            now = ", ".join(
                f"{quantity.name} {value:.1f}" for quantity, value in zip(QUANTITIES, rounds[-1][1:], strict=True)
            )
            print(f"after {(told - begun) / 60:.0f} min: {now}", flush=True)
    minutes = (time.monotonic() - begun) / 60
    print(f"{len(rounds)} rounds after {n_warm_up} to warm up, {minutes:.1f} min")
    sys.exit(report(rounds))


if __name__ == "__main__":
    main()
