"""From Enter to an answer: each command a process of its own, its wall time over that of ``import lightning.pytorch``.

    python benchmarks/startup.py [--rounds 5]

All take turns, after one round that only warms the disk cache. ``fit, first step`` is ``fit --config relu.yaml`` until
its first training step begins; ``fit, one epoch`` is a fit of one epoch until the prompt returns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from machine import machine

FOLDER = Path(__file__).resolve().parent
TRAIN = [sys.executable, str(FOLDER.parent / "train.py")]
FIT = [*TRAIN, "fit", "--config", "relu.yaml", "--test", "never", "--trainer.accelerator", "cpu"]
COMMANDS = {
    "import lightning.pytorch": [sys.executable, "-c", "import lightning.pytorch"],
    "import torch": [sys.executable, "-c", "import torch"],
    "--help": [*TRAIN, "--help"],
    "compare --help": [*TRAIN, "compare", "--help"],
    "fit --help": [*TRAIN, "fit", "--help"],
    "fit, first step": [*FIT, "--trainer.callbacks+=startup.Exit"],
    "fit, one epoch": [*FIT, "--trainer.max_epochs", "1"],
}


class Exit(pl.Callback):
    """Ends the process where the first training step would begin, without the seconds that a proper end takes."""

    def on_train_batch_start(self, *arguments: Any) -> NoReturn:
        """Exit."""
        os._exit(0)


def seconds(command: list[str]) -> float:
    """Wall time of a process, which finds ``Exit`` and writes into a scratch folder."""
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        subprocess.run(command, cwd=scratch, env=environment, capture_output=True, check=True)
        return time.perf_counter() - start


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    _, *rows = [[seconds(command) for command in COMMANDS.values()] for _ in range(options.rounds + 1)]
    print(f"\n{machine()}\nrounds: {options.rounds}\n")
    bare = statistics.median(row[0] for row in rows)
    for name, values in zip(COMMANDS, zip(*rows, strict=True), strict=True):
        median = statistics.median(values)
        print(f"{name:24} {median:5.2f} s ({min(values):.2f} to {max(values):.2f}), ratio {median / bare:.2f}")


if __name__ == "__main__":
    run()
