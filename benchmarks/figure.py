"""What the benchmarks found: one Markdown table, and one figure of epochs and steps.

    python benchmarks/figure.py [--results benchmarks/results] [--figure docs/speed.png]

Reads the JSON files that the other benchmarks left; one that is not there is passed over, by name. The figure needs
those of ``epoch.py`` and ``step.py``.
"""

import argparse
import json
from pathlib import Path

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from networks import NOTEBOOK, label
from results import OUTPUT
from table import Results, Rows, markdown, rows

ROOT = Path(__file__).parent.parent
INK, MUTED, GRID = "#262626", "#737373", "#ececec"
# Shades by batch size: ours, and the peers'.
OURS, PEERS = ("#c0392b", "#e6aaa3"), ("#4c72b0", "#b3c5e0")
BENCHMARKS = ("epoch", "step", "accuracy_time", "memory", "growth", "notebook")
LINES = {
    "fit's step, SGD": "#c0392b",
    "fit's step, SGD, bf16-mixed": "#e59866",
    "fit's step, Adam": "#8e44ad",
    "autograd, SGD": "#4c72b0",
    "autograd, Adam fused": "#2f8f9e",
}
IN_FULL = {
    "hand loop": "bare hand loop",
    "JAX": "JAX, lax.scan",
    "Lightning, tensors": "Lightning, TensorDataset",
    "Lightning, images": "Lightning, image DataLoader",
}


def read(folder: Path) -> Results:
    results = {}
    for name in BENCHMARKS:
        path = folder / f"{name}.json"
        if path.exists():
            results[name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            print(f"{path}: not there, passed over")
    return results


def draw_epochs(axes: Axes, epochs: Rows) -> None:
    """Bars from the fastest to the slowest, with a line from the least to the greatest ratio and the median behind."""
    sizes = sorted({row["batch_size"] for row in epochs})
    medians = {(row["name"], row["batch_size"]): row["ratio"][0] for row in epochs}
    spreads = {(row["name"], row["batch_size"]): row["ratio"] for row in epochs}
    names = [row["name"] for row in sorted(epochs, key=lambda row: row["ratio"][0]) if row["batch_size"] == sizes[0]]
    shades = dict(zip(sizes, PEERS, strict=False))
    sns.barplot(
        y=[name for name, _ in medians],
        x=list(medians.values()),
        hue=[size for _, size in medians],
        order=names,
        hue_order=sizes,
        palette=shades,
        saturation=1,
        legend=False,
        ax=axes,
    )
    for shade, (size, container) in enumerate(zip(sizes, axes.containers, strict=True)):
        for name, bar in zip(names, container, strict=True):
            median, low, high = spreads[name, size]
            if name.startswith(("fit", "hand")):
                bar.set_facecolor(OURS[shade])
            middle = bar.get_y() + bar.get_height() / 2
            axes.hlines(middle, low, high, color=INK, linewidth=0.9)
            axes.annotate(
                f"{median:.2f}",
                (max(high, median), middle),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=INK,
            )
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlim(0, 1.1 * max(high for _, _, high in spreads.values()))
    axes.set_yticks(range(len(names)), [IN_FULL.get(name, name) for name in names])
    kinds = [("this project", OURS), ("peers", PEERS)]
    patches = [Patch(color=c[k], label=f"{who}, batch {size}") for who, c in kinds for k, size in enumerate(sizes)]
    axes.legend(handles=patches, loc="upper right", frameon=True, edgecolor="white", framealpha=1, fontsize=9)
    label_axes(axes, "An epoch of MNIST, SGD", "time / that of fit (median, least to greatest)", "")


def draw_steps(axes: Axes, steps: Rows) -> None:
    """Lines over the batch size."""
    shown = [row for row in steps if row["network"] == label(NOTEBOOK) and row["name"] in LINES]
    sns.lineplot(
        x=[row["batch_size"] for row in shown],
        y=[row["ratio"][0] for row in shown],
        hue=[row["name"] for row in shown],
        hue_order=list(LINES),
        palette=LINES,
        marker="o",
        markersize=5,
        ax=axes,
    )
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted({row["batch_size"] for row in shown})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(0, None)
    axes.legend(frameon=True, edgecolor="white", framealpha=1, fontsize=9)
    label_axes(axes, f"A step of {label(NOTEBOOK)}", "batch size", "time / that of its matrix products in fp32")


def label_axes(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=12, fontweight="bold", color=INK)
    axes.set_xlabel(xlabel, fontsize=10, color=INK)
    axes.set_ylabel(ylabel, fontsize=10, color=INK)
    axes.tick_params(labelsize=9.5, colors=INK)


def draw(epochs: Rows, steps: Rows, machine: str) -> Figure:
    sns.set_theme(style="whitegrid", rc={"axes.edgecolor": "#cccccc", "grid.color": GRID})
    figure = Figure((11, 5.2), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    draw_epochs(left, epochs)
    draw_steps(right, steps)
    for axes in (left, right):
        sns.despine(ax=axes)
    left.grid(axis="y", visible=False)
    figure.supxlabel(machine, fontsize=8, color=MUTED)
    return figure


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=OUTPUT, help="folder of the JSON files")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "speed.png", help="file to draw into")
    options = parser.parse_args()
    results = read(options.results)
    print(f"\n{markdown(results)}\n")
    if "epoch" in results and "step" in results:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        figure = draw(rows(results, "epoch"), rows(results, "step"), results["epoch"]["machine"])
        figure.savefig(options.figure, dpi=150)
        print(options.figure)


if __name__ == "__main__":
    run()
