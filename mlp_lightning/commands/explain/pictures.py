"""Tensors as pictures inside a page: PNGs as data URIs, one pixel an entry, and bars as SVG."""

import base64
import html
import io
import math
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave
from numpy.typing import NDArray

from mlp_lightning.commands.explain.step import Step, number
from mlp_lightning.figures.tiles import tile
from mlp_lightning.printable import printable

# In entries: more are left out evenly, since a screen has no more pixels for them.
MOST_ROWS, MOST_COLUMNS = 256, 512
# In CSS pixels.
HEAT_WIDTH, SMALL_WIDTH, WIDE, TALL, LARGEST_CELL = 400, 150, 1060, 520, 20
BAR_HEIGHT, BAR_WIDTH, NUMBER_WIDTH, LETTER_WIDTH = 22, 230, 84, 8.5
SMALL_BAR_WIDTH = 110
LONGEST_LABEL = 16
PAD, MARKED, BAR = "#d9dce1", "#2c7a4b", "#5b7ea8"


class Picture(NamedTuple):
    """Markup without scripts or addresses, and what to write under it.

    ``limit`` is the end, ± limit, of a heat map's colours; a ``wide`` picture is up to ``WIDE`` pixels wide, any other
    up to ``HEAT_WIDTH``.
    """

    markup: str
    caption: str
    limit: float | None = None
    wide: bool = False


def picture_of(step: Step, *, small: bool = False) -> Picture | None:
    """The step's ``detail`` as its ``view`` says; None without a view. ``small`` is for an overview."""
    if step.view == "none" or step.detail is None:
        return None
    name = printable(step.name)
    if step.view == "bars":
        return Picture(_bars(step, SMALL_BAR_WIDTH if small else BAR_WIDTH), "")
    values = step.detail.detach().float().cpu().numpy()
    if step.view == "image":
        height, width = values.shape
        sheet = colormaps["gray_r"](np.clip(np.nan_to_num(values), 0, 1))
        return Picture(_png(sheet, name, SMALL_WIDTH), f"{height} × {width} pixels")
    return _heat(values, name, SMALL_WIDTH if small else HEAT_WIDTH)


def _heat(values: NDArray, name: str, width: int) -> Picture:
    """Blue below 0, white at 0, red above, symmetric; grey where there is no entry or no number."""
    if values.ndim == 1:
        sheet, caption = _grid(values), f"{len(values)} units, line by line"
    elif values.ndim == 3:
        columns = min(len(values), max(1, WIDE // 2 // (values.shape[2] + 1)))
        sheet = tile(values, columns, (1, 1), fill=math.nan)[:-1, :-1]
        caption = f"each an image of {values.shape[1]} × {values.shape[2]}"
    else:
        every = [-(-size // most) for size, most in zip(values.shape, (MOST_ROWS, MOST_COLUMNS), strict=True)]
        sheet, caption = values[:: every[0], :: every[1]], f"{values.shape[0]} units × {values.shape[1]} inputs"
        if every != [1, 1]:
            caption += f", every {every[0]}. row and every {every[1]}. column"
    finite = np.abs(values[np.isfinite(values)])
    limit = float(finite.max(initial=0.0)) or 1.0
    if values.ndim > 1:
        # A few outliers would leave all the others pale.
        limit = float(np.percentile(finite, 99.9)) if finite.any() else limit
    limit = limit or 1.0
    colours = colormaps["RdBu_r"].with_extremes(bad=PAD)
    pixels = colours(np.ma.masked_invalid(sheet / (2 * limit) + 0.5))
    return Picture(_png(pixels, name, width if values.ndim == 1 else WIDE), caption, limit, wide=values.ndim > 1)


def _grid(values: NDArray) -> NDArray:
    """A vector as rows about twice as long as they are many; a divisor of its length where one is near."""
    ideal = math.sqrt(2 * len(values))
    near = [c for c in range(1, len(values) + 1) if len(values) % c == 0 and 0.6 * ideal <= c <= 1.7 * ideal]
    columns = min(near, key=lambda c: abs(math.log(c / ideal)), default=math.ceil(ideal))
    grid = np.full(-(-len(values) // columns) * columns, math.nan)
    grid[: len(values)] = values
    return grid.reshape(-1, columns)


def _png(pixels: NDArray, name: str, width: int) -> str:
    """An ``img`` of ``pixels`` ``(H, W, 4)``, enlarged without smoothing to about ``width`` CSS pixels."""
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(pixels[..., :3]), format="png")
    data = base64.b64encode(file.getvalue()).decode()
    rows, columns = pixels.shape[:2]
    cell = min(LARGEST_CELL, max(1.0, min(width / columns, TALL / rows)))
    # Whole pixels, or the cells would differ in size.
    cell = math.floor(cell) if cell < columns else cell
    size = f'width="{round(columns * cell)}" height="{round(rows * cell)}"'
    return f'<img class="cells" alt="{html.escape(name)}" {size} src="data:image/png;base64,{data}">'


def _bars(step: Step, bar_width: int) -> str:
    """One bar an entry, to the right where positive and to the left where negative, the marked one green."""
    assert step.detail is not None
    values = step.detail.detach().double().flatten().tolist()
    names = [printable(label) for label in step.labels or map(str, range(len(values)))]
    labels = [label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…" for label in names]
    label_width = round(LETTER_WIDTH * max(map(len, labels))) + 12
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    scale = bar_width / ((high - low) or 1.0)
    zero = label_width - low * scale
    rows = []
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        y, is_marked = i * BAR_HEIGHT, i == step.marked
        length = value * scale if math.isfinite(value) else 0.0
        weight = ' font-weight="700"' if is_marked else ""
        rows.append(
            f'<text x="{label_width - 8}" y="{y + 16}" text-anchor="end"{weight}>{html.escape(label)}</text>'
            f'<rect x="{zero + min(0.0, length):.1f}" y="{y + 3}" width="{max(0.8, abs(length)):.1f}" '
            f'height="{BAR_HEIGHT - 6}" fill="{MARKED if is_marked else BAR}"/>'
            f'<text x="{label_width + bar_width + 8}" y="{y + 16}"{weight}>{number(value)}</text>'
        )
    width, height = label_width + bar_width + NUMBER_WIDTH, len(values) * BAR_HEIGHT
    name = html.escape(printable(step.name))
    return (
        f'<svg role="img" aria-label="{name}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{''.join(rows)}</svg>"
    )
