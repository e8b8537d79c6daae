"""The one look that every figure shares: sizes, colours, titles and margins."""

from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextPath

INK = "#262626"
MUTED = "#737373"
GRID = "#e5e5e5"
TRAIN = "#4c72b0"
VALIDATION = "#dd8452"
ACCURACY = "#2f8f4e"
RIGHT = "#2f8f4e"
WRONG = "#c0392b"

TITLE_SIZE = 13
LABEL_SIZE = 10
TICK_SIZE = 9
# Width of an average bold letter against its size.
WIDE = 0.7


def new_figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A white figure of ``width`` × ``height`` inches with one axes, whose margins fit what is drawn in them.

    A long title shrinks to the width. The figure belongs to no window and to no list of open figures: nothing has to be
    closed, and threads may draw at once.
    """
    margins = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure((width, height), facecolor="white", edgecolor="white", layout=margins)
    longest = max(map(len, title.split("\n")))
    title_size = min(TITLE_SIZE, 72 * width / (WIDE * max(longest, 1)))
    # Names and titles come from users: a dollar sign in them is no formula.
    figure.suptitle(title, fontsize=title_size, fontweight="bold", color=INK, parse_math=False)
    axes = figure.add_subplot(facecolor="white")
    axes.tick_params(labelsize=TICK_SIZE, colors=INK, length=0)
    return figure, axes


def label_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Name both axes."""
    axes.set_xlabel(xlabel, fontsize=LABEL_SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=LABEL_SIZE, color=INK)


def style_bar(bar: Colorbar, label: str) -> None:
    """Name a colour bar and give it the look of the axes."""
    bar.set_label(label, fontsize=LABEL_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK, length=0)
    bar.outline.set_visible(False)


@lru_cache(maxsize=1000)
def text_width(text: str, size: float) -> float:
    """Width in inches of one line of ``text`` at ``size`` points; cached, since class names return every epoch."""
    if not text.strip():
        return 0.0  # there is no outline to measure
    outline = TextPath((0, 0), text.replace("$", "S"), size=size)  # a dollar sign would be read as a formula
    return float(outline.get_extents().width) / 72


def message_figure(title: str, message: str) -> Figure:
    """A small figure that says in words why there is nothing to draw."""
    figure, axes = new_figure(6, 2, title)
    axes.set_axis_off()
    axes.text(0.5, 0.5, message, ha="center", va="center", fontsize=TITLE_SIZE, color=MUTED)
    return figure
