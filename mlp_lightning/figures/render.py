"""Figures as pixels and as PNG files."""

import os
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from mlp_lightning.files.atomic import written_beside


def to_rgb(figure: Figure, dpi: float = 100) -> NDArray[np.uint8]:
    """Draw ``figure`` at ``dpi`` dots per inch: (H, W, 3), 0..255."""
    own_dpi = figure.dpi
    figure.set_dpi(dpi)
    try:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
    finally:
        figure.set_dpi(own_dpi)


def save_png(figure: Figure, path: str | os.PathLike[str], dpi: float = 100) -> None:
    """Write ``figure`` to ``path``; whoever reads it meanwhile sees the old file or the new one, never half of one."""
    path = Path(path)
    pixels = to_rgb(figure, dpi)
    with written_beside(path) as temporary:
        imsave(temporary, pixels, format="png", dpi=dpi)
