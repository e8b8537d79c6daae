"""The confusion matrix as a heatmap."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from mlp_lightning.figures.style import INK, TICK_SIZE, label_axes, new_figure, style_bar, text_width
from mlp_lightning.printable import printable

# Beyond this many classes two lines of text no longer fit into a cell.
MOST_ANNOTATED = 15
# Against a diagonal near 98 % a linear scale paints every mistake white. With the power 0.3 a share of 0.1 % has 13 %
# of the colour range, 1 % has 25 % and 10 % has 50 %; unlike a logarithm it has a place for zero.
GAMMA = 0.3
# Of the matrix, in inches.
SIDE = 5.8


def confusion_figure(counts: ArrayLike, class_names: Sequence[str], title: str) -> Figure:
    """How often each class (row) was taken for each class (column).

    Cells are coloured by their share of the row and, up to 15 classes, annotated with count and share; an empty cell
    says 0 %, as do all cells of a class without samples.

    Args:
        counts: (K, K) integers ≥ 0, rows the true class, columns the predicted one.
        class_names: K names.
        title: first line of the title; the second states accuracy and number of samples.

    Raises:
        ValueError: counts is no square matrix of integers ≥ 0, or the number of names is not K.
    """
    import seaborn  # slow to import, and whoever draws nothing should not wait for it

    matrix = _checked(counts, class_names)
    class_names = [printable(name) for name in class_names]
    size = len(matrix)
    total, correct = int(matrix.sum()), int(matrix.trace())
    score = f"accuracy {correct / total:.2%} of {total:,} samples".replace("%", " %") if total else "no samples"
    percent = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)

    annotated = size <= MOST_ANNOTATED
    tick_size = TICK_SIZE if size <= 20 else 6
    longest = max(text_width(name, tick_size) for name in class_names)
    turned = longest > 0.8 * SIDE / size
    # Margins by arithmetic: the layout engine would measure every text twice, a quarter of the time of this figure.
    left, bottom = 0.55 + longest, 0.5 + (0.71 * longest if turned else 0.1)
    width, height = left + SIDE + 1.35, bottom + SIDE + 0.75
    figure, axes = new_figure(width, height, f"{title}\n{score}")
    figure.set_layout_engine("none")
    axes.set_position((left / width, bottom / height, SIDE / width, SIDE / height))
    bar_axes = figure.add_axes(((left + SIDE + 0.25) / width, bottom / height, 0.25 / width, SIDE / height))

    seaborn.heatmap(
        percent,
        ax=axes,
        cmap="Blues",
        norm=PowerNorm(GAMMA, 0, 100),
        linewidths=0.5 if annotated else 0,
        annot=_annotations(matrix, percent) if annotated else None,
        fmt="",
        annot_kws={"fontsize": min(11, max(6, 80 / size))},
        # Ticks are set below: seaborn would thin out the names and turn those of the rows.
        xticklabels=False,
        yticklabels=False,
        cbar=False,
    )
    for text, share in zip(axes.texts, percent.flat, strict=False):
        # seaborn turns to white at half this share already, where black is the easier to read.
        text.set_color("white" if share > 25 else INK)
    centres = np.arange(size) + 0.5
    axes.set_xticks(centres, class_names, fontsize=tick_size, parse_math=False)
    axes.set_yticks(centres, class_names, fontsize=tick_size, parse_math=False)
    if turned:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    label_axes(axes, "predicted class", "true class")

    bar = figure.colorbar(axes.collections[0], cax=bar_axes, ticks=[0, 0.1, 1, 10, 50, 100])
    bar_axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g} %"))
    style_bar(bar, "share of the true class")
    return figure


def _checked(counts: ArrayLike, class_names: Sequence[str]) -> NDArray[np.integer]:
    matrix = np.asarray(counts)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"counts must have the shape (K, K), K ≥ 1, got {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.integer) or matrix.min() < 0:
        raise ValueError(f"counts must be integers ≥ 0, got {matrix.dtype} from {matrix.min()} on")
    if len(class_names) != len(matrix):
        raise ValueError(
            f"class_names must hold {len(matrix)} names, one for each row of counts, got {len(class_names)}"
        )
    return matrix


def _annotations(matrix: NDArray[np.integer], percent: NDArray[np.floating]) -> NDArray[np.str_]:
    texts = [f"{n}\n{_share(p)}" if n else "0 %" for n, p in zip(matrix.flat, percent.flat, strict=True)]
    return np.array(texts).reshape(matrix.shape)


def _share(percent: np.floating) -> str:
    if percent == 100:
        return "100 %"
    # 99.97 % is not 100 %: a mistake stays visible.
    return f"{min(percent, 99.9):.1f} %" if percent >= 0.1 else f"{percent:.1g} %"
