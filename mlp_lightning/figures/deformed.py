"""Images beside their deformed versions: what the network trains on."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mlp_lightning.figures.style import MUTED, new_figure
from mlp_lightning.figures.tiles import tile
from mlp_lightning.printable import printable

TILE_INCHES = 0.62


def deformed_figure(originals: ArrayLike, versions: ArrayLike, names: Sequence[str], title: str) -> Figure:
    """A row for each image: its name, itself, and its versions in the other columns.

    Args:
        originals: (R, H, W) grey or (R, H, W, 3) colour, in [0, 1], R ≥ 1; values outside are clipped.
        versions: (R, C, H, W) or (R, C, H, W, 3) likewise, C ≥ 1.
        names: R names.
        title: the title.

    Raises:
        ValueError: a wrong shape.
    """
    first, others = np.asarray(originals), np.asarray(versions)
    is_picture = first.ndim == 3 or (first.ndim == 4 and first.shape[3] == 3)
    fits = is_picture and others.ndim == first.ndim + 1 and len(first) == len(others) == len(names)
    if not fits or first.shape[1:] != others.shape[2:] or not first.size or not others.size:
        raise ValueError(
            f"originals (R, H, W[, 3]), versions (R, C, H, W[, 3]) and R names are needed, "
            f"got {first.shape}, {others.shape} and {len(names)} names"
        )
    shown = [printable(name) for name in names]
    rows, height, width = first.shape[:3]
    columns, gap = 1 + others.shape[1], max(1, width // 14)
    pictures = np.concatenate([first[:, np.newaxis], others], axis=1).reshape(-1, *first.shape[1:]).clip(0, 1)
    sheet = tile(pictures, columns, (gap, gap), fill=1.0)[:-gap, :-gap]
    pitch = height + gap, width + gap

    figure, axes = new_figure(max(5, columns * TILE_INCHES + 1.2), rows * TILE_INCHES * height / width + 1, title)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([row * pitch[0] + (height - 1) / 2 for row in range(rows)], shown, parse_math=False)
    axes.set_xticks([(width - 1) / 2, (pitch[1] + sheet.shape[1] - 1) / 2], ["as it is", "deformed"])
    axes.xaxis.tick_top()
    axes.axvline(width + (gap - 1) / 2, color=MUTED, linewidth=1)
    return figure
