"""The command ``compare``: run configs over seeds and settings, then a table and one figure of learning curves."""

import argparse
import math
import statistics
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mlp_lightning.commands.compare.run_options import check_leaves_results
from mlp_lightning.commands.compare.runs import Run, execute, plan
from mlp_lightning.errors import UserError
from mlp_lightning.invocation import program
from mlp_lightning.printable import printable, printable_lines

if TYPE_CHECKING:
    from mlp_lightning.commands.compare.ensemble import Ensemble

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
    if options.ensemble and options.seeds < 2:
        raise UserError(f"--ensemble: got --seeds {options.seeds}, must be at least 2 networks to average")
    runs = plan([find_config(name).resolve() for name in names], options.grid, options.seeds)
    for run in runs:
        check_leaves_results(run.options, run.experiment)
    logs = _log_folder(options.logs)
    _tell_outdated(runs, logs)
    results: dict[Run, tuple[Path, dict[str, Any]]] = {}
    with closing(execute(runs, logs, options.jobs)) as done:
        for run, folder, metrics in done:
            results[run] = (folder, metrics)
            told = f"{run.experiment}, seed {run.seed}: {metrics['test/accuracy']:.2%} on the test set"
            print(f"[{len(results)}/{len(runs)}] {printable(told)}", flush=True)
    results = {run: results[run] for run in runs}
    ensembles = _ensembles(results) if options.ensemble else {}
    measured = {run: metrics for run, (_, metrics) in results.items()}
    texts = {name: str(each) for name, each in ensembles.items()}
    print(f"\n{printable_lines(table(measured, texts, notebook=options.notebook))}\n")
    if options.ensemble:
        _write_ensembles(logs / "ensemble.json", ensembles)
    _draw_curves(logs / "compare.png", results, options.seeds)
    print(f"TensorBoard: tensorboard --logdir {printable(str(logs))}")


def _tell_outdated(runs: list[Run], logs: Path) -> None:
    waiting = [run for run in runs if run.finished(logs) is None]
    for changed, count in Counter(run.outdated(logs) for run in waiting).items():
        if changed is not None:
            print(f"{count} of {len(runs)} runs are repeated, for {changed} changed since", flush=True)


def _log_folder(name: str) -> Path:
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"--logs: got {name}, must be a folder") from error
    except OSError as error:
        raise UserError(f"--logs: got {name}, which cannot be made: {error.strerror}") from error
    return Path(name)


# What follows imports torch, Lightning or matplotlib where it is called: help, errors and the first fit do not wait.
def _ensembles(results: dict[Run, tuple[Path, dict[str, Any]]]) -> dict[str, "Ensemble"]:
    """For each experiment the ensemble of its seeds."""
    from mlp_lightning.commands.compare.ensemble import ensemble

    ensembles = {}
    for experiment in dict.fromkeys(run.experiment for run in results):
        members = {run: result for run, result in results.items() if run.experiment == experiment}
        try:
            ensembles[experiment] = ensemble([folder for folder, _ in members.values()])
        except UserError as error:
            raise UserError(f"--ensemble: {experiment}: {error}") from error
        n = ensembles[experiment].test_samples
        for (run, (_, metrics)), errors in zip(members.items(), ensembles[experiment].errors_by_network, strict=True):
            counted = round((1 - metrics["test/accuracy"]) * n)
            if counted != errors:
                told = f"{experiment}, seed {run.seed}: {errors} errors now, {counted} when it was tested"
                print(printable(told))
    return ensembles


def _write_ensembles(path: Path, ensembles: dict[str, "Ensemble"]) -> None:
    from mlp_lightning.training.runs.run_folder import write_json

    values = {name: {**each._asdict(), "accuracy": each.accuracy} for name, each in ensembles.items()}
    write_json(path, values)
    print(f"ensembles: {printable(str(path))}")


def _draw_curves(path: Path, results: dict[Run, tuple[Path, dict[str, Any]]], seeds: int) -> None:
    from mlp_lightning.figures import save_png
    from mlp_lightning.figures.comparison import comparison_figure
    from mlp_lightning.files.checkpoint_file import read_checkpoint

    curves: dict[str, list[tuple[list[int], list[float]]]] = {}
    for run, (folder, _) in results.items():
        history = read_checkpoint(str(folder / "checkpoints" / "last.ckpt"))["history"]
        curves.setdefault(printable(run.experiment), []).append(history.get("val/accuracy", ([], [])))
    save_png(comparison_figure(curves, f"Mean of {seeds} seeds ± standard deviation"), path)
    print(f"curves: {printable(str(path))}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"{program()} compare", description=__doc__)
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
        "--ensemble", action="store_true", help="test the mean of what an experiment's seeds predict, too"
    )
    parser.add_argument(
        "--logs", default="lightning_logs/compare", help="folder of the runs; those finished in it are not repeated"
    )
    return parser.parse_args(arguments)


def table(results: dict[Run, dict[str, Any]], ensembles: dict[str, str], *, notebook: bool) -> str:
    """A Markdown table: for each experiment mean ± standard deviation over its seeds, then the seeds one by one.

    Args:
        results: The metrics of each run. One that did not validate, or that an older version left without a count of
            its errors, has a dash in their place.
        ensembles: What to say of an experiment's ensemble; empty for no such column.
        notebook: Whether to set the notebook's figures beside ours.
    """
    experiments: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run, metrics in results.items():
        experiments.setdefault((run.experiment, run.config.stem), []).append(metrics)
    header = ["experiment", "epochs", "validation accuracy", "test accuracy", "test loss", "seconds"]
    header += ["accuracy by seed", "errors by seed"]
    if notebook:
        header.insert(2, "notebook: accuracy / loss")
    if ensembles:
        header.append("ensemble")
    lines = [header, ["-"] * len(header)]
    for (experiment, config), seeds in experiments.items():
        row = [experiment, str(seeds[0]["epochs"])]
        row += [
            _mean_and_spread([metrics[key] for metrics in seeds if key in metrics], digits)
            for key, digits in (("val/accuracy", 4), ("test/accuracy", 4), ("test/loss", 4), ("seconds", 1))
        ]
        row.append(", ".join(f"{metrics['test/accuracy']:.4f}" for metrics in seeds))
        row.append(", ".join(str(metrics.get("test/errors", "–")) for metrics in seeds))
        if notebook:
            accuracy, loss = NOTEBOOK[config]
            row.insert(2, f"{accuracy:.4f} / {loss:.4f}")
        if ensembles:
            row.append(ensembles[experiment])
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean_and_spread(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    # A loss may be infinite, which has no deviation.
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"
