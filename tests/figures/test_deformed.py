import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mlp_lightning.figures import deformed_figure

NAMES = ["T-shirt/top", "costs $5", "7"]


def pictures(rows=3, columns=4, height=10, width=28):
    rng = np.random.default_rng(0)
    return rng.random((rows, height, width)), rng.random((rows, columns, height, width))


@pytest.mark.parametrize("size", [(28, 28), (10, 28), (5, 3)], ids=str)
def test_each_image_stands_first_in_its_row(size, cut_off):
    originals, versions = pictures(height=size[0], width=size[1])
    figure = deformed_figure(originals, versions, NAMES, "Deformed")
    (axes,) = figure.axes
    sheet, (height, width) = np.asarray(axes.images[0].get_array()), size
    gap = max(1, width // 14)
    for row, middle in enumerate(axes.get_yticks()):
        top = round(middle - (height - 1) / 2)
        for column, image in enumerate([originals[row], *versions[row]]):
            left = column * (width + gap)
            np.testing.assert_array_equal(sheet[top : top + height, left : left + width], image)
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    first, others = axes.get_xticks()
    assert first < width < others
    # The line lies between the first image and the others.
    (line,) = axes.lines
    assert width - 1 < line.get_xdata()[0] < width + gap
    assert figure.get_suptitle() == "Deformed"
    assert cut_off(figure) == []


def test_colours():
    rng = np.random.default_rng(0)
    originals, versions = rng.random((3, 6, 5, 3)), rng.random((3, 2, 6, 5, 3))
    sheet = np.asarray(deformed_figure(originals, versions, NAMES, "t").axes[0].images[0].get_array())
    np.testing.assert_array_equal(sheet[:6, :5], originals[0])
    np.testing.assert_array_equal(sheet[-6:, -5:], versions[2, 1])


def test_values_outside_the_range_are_as_black_and_white_as_can_be():
    originals, versions = pictures()
    figure = deformed_figure(originals * 0 - 3, versions * 0 + 7, NAMES, "t")
    FigureCanvasAgg(figure).draw()
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    assert set(np.unique(sheet)) == {0, 1}


@pytest.mark.parametrize(
    ("originals", "versions", "names"),
    [
        pytest.param((3, 5, 4), (3, 2, 5, 4), 2, id="a name missing"),
        pytest.param((3, 5, 4), (2, 2, 5, 4), 3, id="a row missing"),
        pytest.param((3, 5, 4), (3, 2, 4, 5), 3, id="another size"),
        pytest.param((3, 20), (3, 2, 5, 4), 3, id="flat"),
        pytest.param((3, 5, 4, 2), (3, 2, 5, 4, 2), 3, id="two colours"),
        pytest.param((3, 5, 4, 3), (3, 2, 5, 4), 3, id="grey versions"),
        pytest.param((3, 5, 4), (3, 0, 5, 4), 3, id="no versions"),
        pytest.param((0, 5, 4), (0, 2, 5, 4), 0, id="no images"),
    ],
)
def test_wrong_shapes(originals, versions, names):
    with pytest.raises(ValueError, match=r"^originals \(R, H, W\[, 3\]\), versions .* needed, got"):
        deformed_figure(np.zeros(originals), np.zeros(versions), ["a"] * names, "t")
