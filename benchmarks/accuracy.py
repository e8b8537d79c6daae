"""Test errors of configs over seeds: a Markdown table, and a figure of error against training time.

    python benchmarks/accuracy.py [best-10min.yaml record.yaml:1 …] [--seeds 3] [--jobs 1] [--figure docs/accuracy.png]

``record.yaml:1`` is one seed of a config. Trains what ``compare`` has not finished yet in the same folder of runs
(``--logs``), one seed after the other. All that was chosen, was chosen on held-out images, before the configs were
made to train on all; each seed reads the test set once. The spread is the standard deviation over seeds, "copies" the
error of predictions averaged over deformed copies of each image, the ensemble that of the mean of all seeds'
probabilities (and, after a semicolon, of those of all their copies), the seconds the wall time of the training. The
figure shows the configs on MNIST and, for comparison, test errors that others published for multilayer perceptrons on
MNIST (a point where the training time was published too, a line otherwise):

- 0.35 %, 114.5 hours on a GTX 280, deformed images: Cireşan, Meier, Gambardella, Schmidhuber 2010 (arXiv 1003.0358),
  784-2500-2000-1500-1000-500-10; their smallest, 784-1000-500-10, reached 0.49 %.
- 0.31 %, a committee of seven with deformed images: Cireşan, Meier, Gambardella, Schmidhuber 2011 (arXiv 1103.4487).
- 0.57 %, a ladder network: Pezeshki, Fan, Brakel, Courville, Bengio 2016 (arXiv 1511.06430).
- 0.64 %, virtual adversarial training (VAT): Miyato, Maeda, Koyama, Nakae, Ishii 2016 (arXiv 1507.00677).
- 0.94 %, maxout with dropout: Goodfellow, Warde-Farley, Mirza, Courville, Bengio 2013 (arXiv 1302.4389).
- 1.25 and 0.95 %, dropout without and with max-norm and 8192 units a layer: Srivastava et al. 2014 (JMLR 15, Table 2).

Those without deformed images know nothing of where a pixel lies.
"""

import argparse
import datetime
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import seaborn as sns
from figure import GRID, INK, MUTED, ROOT, label_axes
from machine import machine, versions
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator
from results import OUTPUT
from table import Rows

from mlp_lightning.cli.config_files import CONFIG_FOLDER, find_config
from mlp_lightning.commands.compare.ensemble import ensemble
from mlp_lightning.commands.compare.runs import execute, plan
from mlp_lightning.errors import UserError
from mlp_lightning.training.runs.predictions import load_tested

CONFIGS = ["best-10min.yaml", "record.yaml:1", "plain.yaml", "fashion.yaml"]
CIRESAN = ("Cireşan et al. 2010", 114.5 * 3600, 0.35)
# Test errors in %: with deformed images, and without knowing where a pixel lies.
DEFORMED = {"Cireşan, committee of 7": 0.31, "Cireşan, 1000-500": 0.49}
PERMUTED = {
    "ladder network": 0.57,
    "VAT": 0.64,
    "maxout, dropout": 0.94,
    "dropout, max-norm": 0.95,
    "dropout": 1.25,
}
DASHES = {"with deformed images": (0, (5, 2)), "without the pixels' places": (0, (1, 2))}
MARKS = {".": "a seed", "o": "mean of the seeds", "*": "their ensemble, for all their time", "D": "published"}
TIMES = {"10 s": 10, "1 min": 60, "10 min": 600, "1 h": 3600, "10 h": 36_000, "100 h": 360_000}
ERRORS = [0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50]


def measure(configs: Mapping[Path, int], jobs: int, logs: Path) -> Rows:
    """Train what is not finished; a row for each config, with a value for each of its seeds."""
    runs = [run for config, seeds in configs.items() for run in plan([config], [], seeds)]
    results = {}
    for run, folder, metrics in execute(runs, logs, jobs):
        results[run] = folder, metrics
        print(f"{run.experiment}, seed {run.seed}: {100 - 100 * metrics['test/accuracy']:.2f} % test error", flush=True)
    rows = []
    for config, seeds in configs.items():
        folders, metrics = zip(*(results[run] for run in runs if run.config == config), strict=True)
        tested = load_tested(folders[0])
        together = ensemble(folders) if seeds > 1 else None
        row = {
            "config": config.stem,
            "dataset": tested.dataset,
            "test_error": errors_of(metrics, "test/accuracy"),
            "copies_error": errors_of(metrics, "test/deformed_accuracy"),
            "ensemble_error": None if together is None else 100 * together.errors / together.test_samples,
            "ensemble_copies_error": None
            if together is None or together.errors_over_copies is None
            else 100 * together.errors_over_copies / together.test_samples,
            "seconds": [each["seconds"] for each in metrics],
            "epochs": metrics[0]["epochs"],
            "parameters": tested.module.network.flat.numel(),
            "devices": sorted({each["device"] for each in metrics}),
        }
        rows.append(row)
    return rows


def errors_of(metrics: Sequence[dict[str, Any]], name: str) -> list[float]:
    """In %, of those seeds that have that accuracy."""
    return [100 - 100 * each[name] for each in metrics if name in each]


def markdown(rows: Rows) -> str:
    header = ["config", "data", "test error, %", "by seed", "copies", "ensemble", "seconds", "epochs", "parameters"]
    lines = [header, ["-"] * len(header)]
    for row in rows:
        together = [f"{row[name]:.2f}" for name in ("ensemble_error", "ensemble_copies_error") if row[name] is not None]
        cells = [row["config"], row["dataset"], in_words(row["test_error"])]
        cells += [
            ", ".join(f"{error:.2f}" for error in row["test_error"]),
            in_words(row["copies_error"]),
            "; ".join(together),
        ]
        cells += [f"{statistics.mean(row['seconds']):,.0f}", str(row["epochs"]), f"{row['parameters']:,}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def in_words(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def where(rows: Rows) -> str:
    """The devices that trained."""
    devices = sorted({device for row in rows for device in row["devices"]})
    return ", ".join(machine().split(", Python")[0] if device == "cpu" else device for device in devices)


def draw(rows: Rows) -> Figure:
    sns.set_theme(style="whitegrid", rc={"axes.edgecolor": "#cccccc", "grid.color": GRID})
    figure = Figure((9.5, 5.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for row, colour in zip(rows, sns.color_palette("deep", len(rows)), strict=True):
        draw_config(axes, row, colour)
    draw_published(axes)
    seconds = [second for row in rows for second in row["seconds"]]
    errors = [error for row in rows for error in row["test_error"]]
    axes.set_xlim(0.4 * min([*seconds, 60]), 3 * max([*seconds, CIRESAN[1]]))
    axes.set_ylim(0.85 * min([*errors, *DEFORMED.values()]), 1.15 * max([*errors, *PERMUTED.values()]))
    axes.xaxis.set_major_locator(FixedLocator(list(TIMES.values())))
    axes.xaxis.set_ticklabels(list(TIMES))
    axes.yaxis.set_major_locator(FixedLocator(ERRORS))
    axes.yaxis.set_ticklabels([f"{error:g} %" for error in ERRORS])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    label_axes(axes, "Multilayer perceptrons on MNIST", f"training time (ours on {where(rows)})", "test error")
    styles = [Line2D([], [], color=MUTED, linestyle=dashes, label=name) for name, dashes in DASHES.items()]
    marks = [Line2D([], [], color=INK, linestyle="", marker=mark, label=name) for mark, name in MARKS.items()]
    ours, _ = axes.get_legend_handles_labels()
    handles = [*ours, *marks, *styles]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    sns.despine(ax=axes)
    return figure


def draw_config(axes: Axes, row: dict, colour: tuple[float, float, float]) -> None:
    """A dot for each seed, a disc for their mean, a star for their ensemble."""
    axes.plot(row["seconds"], row["test_error"], ".", color=colour, markersize=7, alpha=0.8, zorder=3)
    middle = statistics.mean(row["seconds"]), statistics.mean(row["test_error"])
    axes.plot(*middle, "o", color=colour, markersize=10, markeredgecolor="white", label=row["config"], zorder=4)
    if row["ensemble_error"] is not None:
        axes.plot(sum(row["seconds"]), row["ensemble_error"], "*", color=colour, markersize=13, zorder=4)


def draw_published(axes: Axes) -> None:
    """A point where the training time is known, and lines with their names in the right margin."""
    name, seconds, error = CIRESAN
    axes.plot(seconds, error, "D", color=MUTED, markersize=7, zorder=3)
    text = f"{name}: {error} %, 114.5 h"
    axes.annotate(text, (seconds, error), (-8, 0), textcoords="offset points", ha="right", va="center", fontsize=9)
    lines = {**DEFORMED, **PERMUTED}
    for name, error in lines.items():
        dashes = DASHES["with deformed images" if name in DEFORMED else "without the pixels' places"]
        axes.axhline(error, color=MUTED, linewidth=0.9, linestyle=dashes, zorder=1)
    heights = spaced(list(lines.values()), factor=1.09)
    for (name, error), height in zip(lines.items(), heights, strict=True):
        at = {"xy": (1.01, height), "xycoords": ("axes fraction", "data"), "annotation_clip": False}
        axes.annotate(f"{error:.2f} %  {name}", **at, va="center", fontsize=9, color=INK)


def spaced(values: Sequence[float], factor: float) -> Iterator[float]:
    """Values in rising order, moved up where one is not ``factor`` times the one before."""
    last = 0.0
    for value in values:
        last = max(value, factor * last)
        yield last


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=CONFIGS, help=f"default: {' '.join(CONFIGS)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each config, with seeds 0, 1, … (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="fits at the same time (default 1, or times mean little)")
    parser.add_argument("--logs", type=Path, default=Path("lightning_logs/compare"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of accuracy.json and accuracy.md")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "accuracy.png", help="file to draw into")
    options = parser.parse_args()
    try:
        configs = {}
        for name, _, seeds in (config.partition(":") for config in options.configs):
            configs[find_config(name, CONFIG_FOLDER).resolve()] = int(seeds or options.seeds)
        rows = measure(configs, options.jobs, options.logs)
    except UserError as error:
        parser.error(str(error))
    table = f"{markdown(rows)}\n\n{machine()}, {datetime.date.today().isoformat()}"
    print(f"\n{table}\n")
    options.output.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": "accuracy", "machine": machine(), "versions": versions(), "rows": rows}
    (options.output / "accuracy.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (options.output / "accuracy.md").write_text(table + "\n", encoding="utf-8")
    shown = [row for row in rows if row["dataset"] == "mnist"]
    if shown:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(shown).savefig(options.figure, dpi=150)
        print(options.figure)


if __name__ == "__main__":
    run()
