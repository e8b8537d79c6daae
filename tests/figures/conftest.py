from collections.abc import Callable

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture
def cut_off() -> Callable[[Figure], list[str]]:
    """Draws a figure and returns the texts that stick out of it."""

    def find(figure: Figure) -> list[str]:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        width, height = canvas.get_width_height()
        drawn = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        outside = []
        for text in set(drawn) - set(unused_tick_labels(figure)):
            box = text.get_window_extent(canvas.get_renderer())
            if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
                outside.append(text.get_text())
        return outside

    return find


def unused_tick_labels(figure: Figure) -> list[Text]:
    """Labels of ticks beyond the ends of their axis and of axes that are switched off."""
    unused = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not axes.axison or not low <= tick.get_loc() <= high:
                    unused += [tick.label1, tick.label2]
    return unused
