import math

import numpy as np
import pytest
import torch

from mlp_lightning.figures import to_rgb, weights_figure


def sheet(figure):
    """The tiled weights, NaN in the gaps."""
    (image,) = figure.axes[0].images
    return image.get_array().filled(np.nan)


def pixel(figure, row, column):
    """The colour in which the weight at ``row`` and ``column`` of the sheet is drawn."""
    pixels = to_rgb(figure).astype(int)
    x, y = figure.axes[0].transData.transform((column, row))
    return pixels[pixels.shape[0] - 1 - round(y), round(x)]


@pytest.mark.parametrize(
    ("units", "side"), [(1, 1), (2, 2), (10, 4), (99, 10), (100, 10), (500, 10)], ids=lambda value: str(value)
)
def test_each_row_of_the_first_100_is_a_tile(units, side, cut_off):
    weight = np.random.default_rng(0).normal(size=(units, 12))
    figure = weights_figure(weight, (3, 4), "First layer")
    drawn = sheet(figure)
    assert drawn.shape[1] == 5 * side - 1
    shown = min(units, 100)
    for unit in range(shown):
        top, left = 4 * (unit // side), 5 * (unit % side)
        np.testing.assert_array_equal(drawn[top : top + 3, left : left + 4].ravel(), weight[unit])
    assert np.isfinite(drawn).sum() == 12 * shown
    assert figure.get_suptitle() == "First layer"
    assert cut_off(figure) == []


def test_scale_is_symmetric_and_one_for_all():
    weight = np.array([[0.0, 0.1, 0.2, 0.5], [-3.0, 0.0, 0.0, 0.0]])
    low, high = weights_figure(weight, (2, 2), "t").axes[0].images[0].get_clim()
    assert low == -high
    assert 2.9 < high <= 3


def test_one_runaway_weight_does_not_fade_the_others():
    weight = np.random.default_rng(0).normal(size=(100, 784))
    weight[0, 0] = 1e6
    figure = weights_figure(weight, (28, 28), "t")
    assert 3 < figure.axes[0].images[0].get_clim()[1] < 4


def test_positive_is_red_negative_blue_zero_white_and_gap_grey():
    weight = np.stack([np.full(16, value) for value in (1.0, -1.0, 0.0)])
    figure = weights_figure(weight, (4, 4), "t")
    red, _, blue = pixel(figure, 1, 1)
    assert red > blue + 50
    red, _, blue = pixel(figure, 1, 6)
    assert blue > red + 50
    assert pixel(figure, 6, 1).min() > 240
    gap = pixel(figure, 4, 1)
    assert np.ptp(gap) == 0
    assert 100 < gap[0] < 220


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0, 0, 0, 0], id="zeros"),
        pytest.param([math.nan] * 4, id="NaN only"),
        pytest.param([math.inf, -math.inf, 1, math.nan], id="infinite"),
        pytest.param([1, 2, 3, 4], id="integers"),
    ],
)
def test_odd_weights_are_drawn(values, cut_off):
    figure = weights_figure([values], (2, 2), "t")
    assert cut_off(figure) == []
    low, high = figure.axes[0].images[0].get_clim()
    assert 0 < high == -low < math.inf


def test_colour_images_show_the_mean_over_the_colours():
    weight = np.random.default_rng(0).normal(size=(1, 2 * 2 * 3))
    drawn = sheet(weights_figure(weight, (2, 2, 3), "t"))
    means = [weight[0, i : i + 3].mean() for i in (0, 3, 6, 9)]
    np.testing.assert_allclose(drawn.ravel(), means)


def test_tensor_and_array_give_the_same_figure():
    weight = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    drawn = [sheet(weights_figure(given, (2, 3), "t")) for given in (weight, weight.numpy())]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    ("weight", "shape", "message"),
    [
        pytest.param(np.zeros((3, 10)), (3, 3), r"weight .*\(H, 9\).*\(3, 10\)", id="wrong width"),
        pytest.param(np.zeros(9), (3, 3), r"weight .*\(9,\)", id="a vector"),
        pytest.param(np.zeros((0, 9)), (3, 3), r"weight .*\(0, 9\)", id="no unit"),
        pytest.param(np.zeros((3, 0)), (0, 3), r"weight .*\(3, 0\)", id="no pixel"),
        pytest.param(np.zeros((3, 9)), (9,), r"image_shape .*\(9,\)", id="flat images"),
    ],
)
def test_bad_input(weight, shape, message):
    with pytest.raises(ValueError, match=message):
        weights_figure(weight, shape, "t")
