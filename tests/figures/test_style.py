import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlp_lightning.figures.style import message_figure, new_figure, text_width


@pytest.mark.parametrize("text", ["7", "Ankle boot", "WWWWWWWW", "iiiiiiiiii", "a_b%{}\\"])
def test_text_width_is_the_drawn_width(text):
    figure = Figure(dpi=720)
    drawn = figure.text(0, 0, text, fontsize=9)
    box = drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert text_width(text, 9) == pytest.approx(box.width / 720, rel=0.05, abs=0.03)


@pytest.mark.parametrize("text", ["", " "])
def test_blank_text_has_no_width(text):
    assert text_width(text, 9) == 0


@pytest.mark.parametrize("title", ["", "Short", "A long title " * 12, "two\nlines " + "and more " * 20, "$\\frac$ 5 $"])
@pytest.mark.parametrize("width", [5, 9])
def test_title_fits_and_is_no_formula(title, width, cut_off):
    figure, _ = new_figure(width, 3, title)
    assert figure.get_suptitle() == title
    assert cut_off(figure) == []


def test_message_stands_in_a_figure_of_its_own(cut_off):
    figure = message_figure("Title", "nothing to see")
    assert figure.axes[0].texts[0].get_text() == "nothing to see"
    assert not figure.axes[0].axison
    assert cut_off(figure) == []
