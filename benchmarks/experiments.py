"""The notebook's six experiments over several seeds: the README's table.

    python benchmarks/experiments.py [--seeds 3] [--configs sigmoid relu …]

Each run is ``fit`` as a user starts it, in a process of its own; finished runs in ``--logs`` are not repeated.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = {
    "sigmoid": (0.9660, 0.1127),
    "relu": (0.9799, 0.0986),
    "tanh": (0.9295, 0.2309),
    "he_tanh": (0.9059, 0.2999),
    "he_relu": (0.9128, 0.2863),
    "adam_norm": (0.8584, 0.6131),
}


def measure(config: str, seed: int, logs: Path) -> dict[str, float]:
    """The metrics of one run."""
    root = logs / f"{config}-seed{seed}"
    if not list(root.glob("lightning_logs/*/*/metrics.json")):
        command = [sys.executable, "train.py", "fit", "--config", f"{config}.yaml", "--seed_everything", str(seed)]
        options = ["--trainer.default_root_dir", str(root), "--trainer.enable_progress_bar", "false"]
        subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (path,) = root.glob("lightning_logs/*/*/metrics.json")
    return json.loads(path.read_text())


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--configs", nargs="+", default=[*NOTEBOOK, "adam"])
    parser.add_argument("--logs", type=Path, default=ROOT / "lightning_logs" / "experiments")
    options = parser.parse_args()
    print("| config | epochs | notebook: test accuracy / loss | test accuracy | test loss | accuracies |")
    print("| - | - | - | - | - | - |")
    for config in options.configs:
        runs = [measure(config, seed, options.logs) for seed in range(options.seeds)]
        cells = []
        for key in ("test/accuracy", "test/loss"):
            values = [metrics[key] for metrics in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}")
        notebook = "{:.4f} / {:.4f}".format(*NOTEBOOK[config]) if config in NOTEBOOK else "none"
        each = ", ".join(f"{metrics['test/accuracy']:.4f}" for metrics in runs)
        print(f"| {config}.yaml | {runs[0]['epochs']} | {notebook} | {cells[0]} | {cells[1]} | {each} |", flush=True)
    print(f"\nMean ± standard deviation over seeds 0 to {options.seeds - 1}; {machine()}.")


if __name__ == "__main__":
    run()
