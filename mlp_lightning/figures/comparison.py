"""Learning curves of several experiments, each a mean over seeds with its band."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import ArrayLike

from mlp_lightning.figures.style import GRID, INK, TICK_SIZE, label_axes, message_figure, new_figure


def comparison_figure(curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]], title: str) -> Figure:
    """Validation accuracy over the training steps: each experiment's mean over its seeds, ± one standard deviation.

    Args:
        curves: For each experiment the ``(steps, values)`` of each seed; the accuracy is a fraction of 1.
        title: The title.
    """
    import seaborn  # slow to import, and whoever draws nothing should not wait for it

    recorded = {name: [seed for seed in seeds if np.size(seed[0])] for name, seeds in curves.items()}
    names = [name for name, seeds in recorded.items() if seeds]
    if not names:
        return message_figure(title, "nothing recorded")
    figure, axes = new_figure(9, 5.5, title)
    palette = seaborn.color_palette("deep" if len(names) <= 10 else "husl", len(names))
    for name, colour in zip(names, palette, strict=True):
        steps = np.concatenate([np.asarray(steps, dtype=float) for steps, _ in recorded[name]])
        values = np.concatenate([np.asarray(values, dtype=float) for _, values in recorded[name]])
        single = len(np.unique(steps)) == 1
        options = {"errorbar": "sd", "linewidth": 1.6, "marker": "o" if single else None}
        seaborn.lineplot(x=steps, y=values, ax=axes, label=name, legend=False, color=colour, **options)
    # The first records of a slow experiment would flatten all that matters.
    last = min(np.asarray(values, dtype=float)[-1] for name in names for _, values in recorded[name])
    axes.set_ylim(max(0.0, 1 - 2.5 * (1 - last)), 1.0)
    label_axes(axes, "training step", "validation accuracy")
    axes.grid(color=GRID, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=TICK_SIZE, labelcolor=INK)
    return figure
