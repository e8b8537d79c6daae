"""The command ``compare``: run configs over seeds and settings, then a table and one figure of learning curves."""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mlp_lightning.commands.runs import Run, execute, plan
from mlp_lightning.errors import UserError

# Test accuracy and loss that the notebook "Backpropagation from Scratch" reports for its six experiments.
NOTEBOOK = {
    "sigmoid": (0.9660, 0.1127),
    "relu": (0.9799, 0.0986),
    "tanh": (0.9295, 0.2309),
    "he_tanh": (0.9059, 0.2999),
    "he_relu": (0.9128, 0.2863),
    "adam_norm": (0.8584, 0.6131),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"compare: {message}")


def compare(arguments: list[str], find_config: Callable[[str], Path]) -> None:
    """Run the command.

    Args:
        arguments: What follows ``compare`` on the command line.
        find_config: Turns the name of a config into its path, or raises UserError.

    Raises:
        UserError: wrong arguments, or a fit that failed.
    """
    options = _parse(arguments)
    names = [f"{name}.yaml" for name in NOTEBOOK] if options.notebook else options.configs
    if not names:
        raise UserError("compare: got no config, name one or more, or use --notebook")
    if options.jobs < 1:
        raise UserError(f"--jobs: got {options.jobs}, must be at least 1")
    runs = plan([find_config(name).resolve() for name in names], options.grid, options.seeds)
    logs = Path(options.logs)
    results: dict[Run, tuple[Path, dict[str, Any]]] = {}
    for run, folder, metrics in execute(runs, logs, options.jobs):
        results[run] = (folder, metrics)
        share = f"{metrics['test/accuracy']:.2%}"
        print(f"[{len(results)}/{len(runs)}] {run.experiment}, seed {run.seed}: {share} on the test set", flush=True)
    print(f"\n{table({run: results[run][1] for run in runs}, notebook=options.notebook)}")
    # Here, since they import torch, Lightning and matplotlib: help, errors and the first fit do not wait for them.
    from mlp_lightning.figures import save_png
    from mlp_lightning.figures.comparison import comparison_figure
    from mlp_lightning.training.checkpoint import read_checkpoint

    curves: dict[str, list[tuple[list[int], list[float]]]] = {}
    for run in runs:
        history = read_checkpoint(str(results[run][0] / "checkpoints" / "last.ckpt"))["history"]
        curves.setdefault(run.experiment, []).append(history.get("val/accuracy", ([], [])))
    figure = comparison_figure(curves, f"Mean of {options.seeds} seeds ± standard deviation")
    save_png(figure, logs / "compare.png")
    print(f"\ncurves: {logs / 'compare.png'}\nTensorBoard: tensorboard --logdir {logs}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="train.py compare", description=__doc__)
    parser.add_argument("configs", nargs="*", help="configs, from here or from the config folder")
    parser.add_argument(
        "--notebook", action="store_true", help="the notebook's six experiments, its figures beside ours"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each experiment, with seeds 0, 1, … (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="fits at the same time, which share the cores (default 1)")
    parser.add_argument(
        "--grid", nargs="+", default=[], help="settings to combine: model.lr=0.1,0.01 data.batch_size=64"
    )
    parser.add_argument(
        "--logs", default="lightning_logs/compare", help="folder of the runs; those finished in it are not repeated"
    )
    return parser.parse_args(arguments)


def table(results: dict[Run, dict[str, Any]], *, notebook: bool) -> str:
    """A Markdown table: for each experiment mean ± standard deviation over its seeds, then each seed's accuracy."""
    experiments: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run, metrics in results.items():
        experiments.setdefault((run.experiment, run.config.stem), []).append(metrics)
    header = ["experiment", "epochs", "test accuracy", "test loss", "seconds", "accuracy by seed"]
    if notebook:
        header.insert(2, "notebook: accuracy / loss")
    lines = [header, ["-"] * len(header)]
    for (experiment, config), seeds in experiments.items():
        spread = [
            _mean_and_spread([metrics[key] for metrics in seeds], digits)
            for key, digits in (("test/accuracy", 4), ("test/loss", 4), ("seconds", 1))
        ]
        row = [experiment, str(seeds[0]["epochs"]), *spread]
        row.append(", ".join(f"{metrics['test/accuracy']:.4f}" for metrics in seeds))
        if notebook:
            accuracy, loss = NOTEBOOK[config]
            row.insert(2, f"{accuracy:.4f} / {loss:.4f}")
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean_and_spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
