"""An epoch of ``fit --config relu.yaml``, logging on, against a bare hand loop of the same recipe.

    python benchmarks/epoch.py [--epochs 3] [--rounds 3]

Both take turns in one process; the ratio of their medians is what counts. ``fit`` is timed twice: its training steps
with their logging (``train_seconds``), and the whole fit with validation, pictures and checkpoints after every epoch.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

from machine import machine

from mlp_lightning.cli import main
from mlp_lightning.data.loader import Batches
from mlp_lightning.data.sources import load_dataset
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy


def bare_loop(batches: Batches, epochs: int) -> float:
    """Seconds an epoch of forward, loss, backward, update and the notebook's validation, and nothing else."""
    network = MLP([784, 500, 250, 100, 10], "relu", "glorot_uniform")
    loss = SoftmaxCrossEntropy("sum")
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in batches:
            logits, cache = network(batch.x)
            _, loss_cache = loss.forward(logits, batch.y)
            network.backward(loss.backward(loss_cache), cache)
            network.flat.add_(network.flat_grad, alpha=-0.01)
            logits, _ = network(batch.val_x)
            loss.forward(logits, batch.val_y)
    return (time.perf_counter() - start) / epochs


def fit(epochs: int) -> tuple[float, float]:
    """Seconds an epoch of ``fit``: its training steps alone, and everything."""
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        command = ["fit", "--config", "relu.yaml", "--test", "never", "--trainer.accelerator", "cpu"]
        main([*command, "--trainer.default_root_dir", root, "--trainer.max_epochs", str(epochs)])
        (path,) = Path(root).glob("lightning_logs/relu/*/metrics.json")
        metrics = json.loads(path.read_text())
    return metrics["train_seconds"] / epochs, metrics["seconds"] / epochs


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = load_dataset("mnist", None)
    batches = Batches(data.train_x, data.train_y, 64, per_batch=True)
    bare_loop(batches, 1)
    fit(1)
    rows = [(bare_loop(batches, options.epochs), *fit(options.epochs)) for _ in range(options.rounds)]
    print(f"\n{machine()}\nepochs a round: {options.epochs}, rounds: {options.rounds}\n")
    bare = statistics.median(row[0] for row in rows)
    for name, column in (("bare hand loop", 0), ("fit, training steps", 1), ("fit, everything", 2)):
        values = sorted(row[column] for row in rows)
        median = statistics.median(values)
        print(f"{name:20} {median:.2f} s an epoch ({values[0]:.2f} to {values[-1]:.2f}), ratio {median / bare:.2f}")


if __name__ == "__main__":
    run()
