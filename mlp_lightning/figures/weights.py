"""The weights of the first layer as images: what each hidden unit looks for."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mlp_lightning.figures.style import new_figure, style_bar
from mlp_lightning.figures.tiles import tile

MOST_UNITS = 100


def weights_figure(weight: ArrayLike, image_shape: Sequence[int], title: str) -> Figure:
    """The first up to 100 rows of a weight matrix as images, red where positive and blue where negative.

    All tiles share one scale, so that strong and weak units can be told apart; it ends at ± the 99.9th percentile of
    |weight|, where colours saturate. White is 0; weights that are not finite are grey like the gaps.

    Args:
        weight: (H, D), one row for each hidden unit.
        image_shape: (height, width) in pixels, or (height, width, 3): then a tile shows the mean over the colours.
        title: the title.

    Raises:
        ValueError: weight is no matrix, is empty, or D is not the product of image_shape.
    """
    matrix = np.asarray(weight)
    if len(image_shape) not in (2, 3):
        raise ValueError(f"image_shape must be (height, width) or (height, width, 3), got {tuple(image_shape)}")
    if matrix.ndim != 2 or not matrix.size or matrix.shape[1] != math.prod(image_shape):
        shape = f"(H, {math.prod(image_shape)})"
        raise ValueError(f"weight must have the shape {shape} for image_shape {tuple(image_shape)}, got {matrix.shape}")
    height, width = image_shape[:2]
    images = matrix[:MOST_UNITS].reshape(-1, height, width, math.prod(image_shape[2:])).mean(axis=3)
    strengths = np.abs(images[np.isfinite(images)])
    limit = (float(np.percentile(strengths, 99.9)) if strengths.size else 0.0) or 1.0

    columns = math.ceil(math.sqrt(len(images)))
    sheet = tile(images, columns, (1, 1), fill=math.nan)[:-1, :-1]
    figure, axes = new_figure(8, 7.2, title)
    axes.set_axis_off()
    colours = colormaps["RdBu_r"].with_extremes(bad="#bfbfbf")
    picture = axes.imshow(sheet, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest")

    clipped = bool(strengths.size) and strengths.max() > limit
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, extend="both" if clipped else "neither")
    style_bar(bar, "weight")
    return figure
