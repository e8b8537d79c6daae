"""Many small images on one sheet: a single picture draws much faster than one axes for each image."""

import numpy as np
from numpy.typing import NDArray


def tile(images: NDArray, columns: int, gap: tuple[int, int], fill: float) -> NDArray:
    """Lay ``images`` (N, H, W) or (N, H, W, 3) out row by row, each followed by a gap below it and to its right.

    Image i has its upper left pixel at row ``i // columns · (H + gap[0])`` and column ``i % columns · (W + gap[1])``.
    The gaps, in pixels, and the places left over in the last row hold ``fill``.
    """
    count, height, width, *colours = images.shape
    rows = -(-count // columns)
    pitch = height + gap[0], width + gap[1]
    sheet = np.full((rows, pitch[0], columns, pitch[1], *colours), fill)
    row, column = np.divmod(np.arange(count), columns)
    sheet[row, :height, column, :width] = images
    return sheet.reshape(rows * pitch[0], columns * pitch[1], *colours)
