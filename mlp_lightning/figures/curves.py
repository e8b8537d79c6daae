"""Losses and accuracy over the training steps."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from mlp_lightning.figures.style import (
    ACCURACY,
    GRID,
    INK,
    LABEL_SIZE,
    TICK_SIZE,
    TRAIN,
    VALIDATION,
    label_axes,
    message_figure,
    new_figure,
)

LOSSES = {"train/loss": ("training loss", TRAIN), "val/loss": ("validation loss", VALIDATION)}
ACCURACIES = {"val/accuracy": ("validation accuracy", ACCURACY)}
# Fewer points than this are shown as points, too.
FEW_POINTS = 20


def curves_figure(history: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str) -> Figure:
    """Training and validation loss on the left axis, validation accuracy on the right one, its best value marked.

    The loss axis starts at 0 and the accuracy axis ends at 100 %; both omit rare values far beyond the others, like the
    first loss of a bad initialisation. Values that are NaN or infinite appear as crosses at the upper edge.

    Args:
        history: ``(steps, values)``, two sequences of one length, under any of the keys train/loss, val/loss and
            val/accuracy (a fraction of 1). The series may differ in length, be empty or be missing.
        title: the title.

    Raises:
        ValueError: an unknown key, or steps and values that are not two sequences of one length.
    """
    series = {key: _checked(key, *pair) for key, pair in history.items()}
    series = {key: pair for key, pair in series.items() if pair[0].size}
    if not series:
        return message_figure(title, "nothing recorded")

    figure, axes = new_figure(9, 5, title)
    label_axes(axes, "training step", "loss")
    axes.grid(color=GRID, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    tops = [_plot(axes, *series[key], *LOSSES[key]) for key in LOSSES if key in series]
    axes.set_ylim(0, 1.05 * max(tops, default=1.0))

    if "val/accuracy" in series:
        steps, accuracy = series["val/accuracy"]
        right = axes.twinx()
        _plot(right, steps, accuracy, *ACCURACIES["val/accuracy"])
        _mark_best(right, steps, accuracy)
        span = _robust_maximum(1 - accuracy)
        right.set_ylim(1 - 1.05 * span, 1 + 0.02 * span)
        right.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
        right.set_ylabel("accuracy", fontsize=LABEL_SIZE, color=ACCURACY)
        right.tick_params(labelsize=TICK_SIZE, colors=ACCURACY, length=0)
        right.spines[:].set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=TICK_SIZE, labelcolor=INK)
    return figure


def _checked(key: str, steps: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if key not in LOSSES | ACCURACIES:
        raise ValueError(f"history has the keys {', '.join(LOSSES | ACCURACIES)}, got {key!r}")
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"history[{key!r}] must be steps and values of one length, got shapes {x.shape} and {y.shape}")
    return x, y


def _plot(axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64], label: str, colour: str) -> float:
    """Draw one series; returns the largest value that its axis should show."""
    import seaborn  # slow to import, and whoever draws nothing should not wait for it

    finite = np.isfinite(values)
    seaborn.lineplot(
        x=steps[finite],
        y=values[finite],
        ax=axes,
        estimator=None,
        label=label,
        legend=False,
        color=colour,
        linewidth=1.6,
        marker="o" if finite.sum() <= FEW_POINTS else None,
        markersize=4,
        markeredgewidth=0,
    )
    if not finite.all():
        lost = steps[~finite]
        axes.plot(
            lost,
            np.full(lost.size, 0.98),
            "x",
            transform=axes.get_xaxis_transform(),
            color=colour,
            label="not finite",
        )
    return _robust_maximum(values)


def _robust_maximum(values: NDArray[np.float64]) -> float:
    """The largest finite value, unless it is more than 5 times the 90th percentile: then that bound."""
    finite = values[np.isfinite(values)]
    if not finite.size or finite.max() <= 0:
        return 1.0
    # The percentile is one of the values and not the largest one: even of two points, one cannot hide the other.
    usual = float(np.percentile(finite, 90, method="lower"))
    return min(float(finite.max()), 5 * usual) if usual > 0 else float(finite.max())


def _mark_best(axes: Axes, steps: NDArray[np.float64], accuracy: NDArray[np.float64]) -> None:
    if not np.isfinite(accuracy).any():
        return
    best = np.nanargmax(np.where(np.isfinite(accuracy), accuracy, np.nan))
    label = f"best {accuracy[best]:.2%} at step {steps[best]:,.0f}".replace("%", " %")
    axes.plot(
        steps[best],
        accuracy[best],
        "*",
        label=label,
        zorder=5,
        markersize=13,
        markerfacecolor=ACCURACY,
        markeredgecolor="white",
        linestyle="none",
    )
