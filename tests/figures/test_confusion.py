from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from seaborn.utils import relative_luminance
from sklearn.metrics import accuracy_score, confusion_matrix

from mlp_lightning.figures import confusion_figure

DIGITS = [str(digit) for digit in range(10)]
GARMENTS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
EMNIST = list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")


def mostly_right(size, samples=1000):
    rng = np.random.default_rng(size)
    counts = rng.integers(0, 3, (size, size))
    np.fill_diagonal(counts, samples)
    return counts


def cell_texts(figure):
    size = round(len(figure.axes[0].texts) ** 0.5)
    return np.array([text.get_text() for text in figure.axes[0].texts]).reshape(size, size)


def cell_shares(figure):
    return np.asarray(figure.axes[0].collections[0].get_array())


def tick_names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_counts_shares_and_accuracy_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 10, 2000)
    predictions = np.where(rng.random(2000) < 0.9, targets, rng.integers(0, 10, 2000))
    figure = confusion_figure(confusion_matrix(targets, predictions), DIGITS, "Test")

    shares = 100 * confusion_matrix(targets, predictions, normalize="true")
    np.testing.assert_allclose(cell_shares(figure), shares, rtol=1e-12)
    counts = [int(text.split("\n")[0].removesuffix(" %")) for text in cell_texts(figure).flat]
    assert counts == confusion_matrix(targets, predictions).ravel().tolist()
    percentage = f"{100 * accuracy_score(targets, predictions):.2f} %"
    assert figure.get_suptitle() == f"Test\naccuracy {percentage} of 2,000 samples"


def test_rows_are_true_classes_from_top_to_bottom_and_columns_predictions_from_left_to_right():
    figure = confusion_figure([[90, 10], [0, 50]], ["cat", "dog"], "pets")
    axes = figure.axes[0]
    assert cell_texts(figure).tolist() == [["90\n90.0 %", "10\n10.0 %"], ["0 %", "50\n100 %"]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert tick_names(axes.xaxis) == tick_names(axes.yaxis) == ["cat", "dog"]
    places = {text.get_text(): axes.transData.transform(text.get_position()) for text in axes.texts}
    assert places["10\n10.0 %"][0] > places["90\n90.0 %"][0]
    assert places["50\n100 %"][1] < places["10\n10.0 %"][1]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        pytest.param(0, "0 %", id="zero"),
        pytest.param(1, "1\n0.01 %", id="below a tenth of a percent"),
        pytest.param(10, "10\n0.1 %", id="a tenth of a percent"),
        pytest.param(123, "123\n1.2 %", id="one decimal"),
        pytest.param(9_997, "9997\n99.9 %", id="not rounded up to all"),
        pytest.param(10_000, "10000\n100 %", id="all"),
    ],
)
def test_cell_text(count, text):
    figure = confusion_figure([[10_000 - count, count], [0, 1]], ["a", "b"], "t")
    assert cell_texts(figure)[0, 1] == text


def test_class_without_samples_is_zero_percent():
    counts = mostly_right(10)
    counts[3] = 0
    figure = confusion_figure(counts, DIGITS, "t")
    assert (cell_shares(figure)[3] == 0).all()
    assert (cell_texts(figure)[3] == "0 %").all()


def test_no_samples_at_all():
    figure = confusion_figure(np.zeros((3, 3), int), ["a", "b", "c"], "t")
    assert figure.get_suptitle() == "t\nno samples"
    assert (cell_shares(figure) == 0).all()


def test_rare_mistakes_differ_in_colour_from_each_other_and_from_none():
    counts = [[9890, 10, 100, 0]] + [[0, 0, 0, 1]] * 3
    figure = confusion_figure(counts, list("abcd"), "t")
    mesh = figure.axes[0].collections[0]
    _, tenth, one, none = mesh.to_rgba(mesh.get_array())[0, :, :3]
    assert np.abs(tenth - none).max() > 0.08
    assert np.abs(one - tenth).max() > 0.08


def test_every_text_stands_out_from_its_cell():
    shares = np.array([0, 1, 10, 100, 500, 1000, 2000, 2400, 2600, 5000, 9000, 10000])
    counts = np.zeros((12, 12), int)
    counts[:, 0], counts[:, 1] = shares, 10000 - shares
    figure = confusion_figure(counts, list("abcdefghijkl"), "t")
    mesh = figure.axes[0].collections[0]
    backgrounds = mesh.to_rgba(mesh.get_array()).reshape(-1, 4)
    for text, background in zip(figure.axes[0].texts, backgrounds, strict=True):
        dark, light = sorted((relative_luminance(to_rgba(text.get_color())), relative_luminance(background)))
        assert (light + 0.05) / (dark + 0.05) > 3.5, text.get_text()


@pytest.mark.parametrize(
    ("size", "annotated"),
    [pytest.param(size, size <= 15, id=f"K={size}") for size in (1, 2, 10, 15, 16, 47)],
)
def test_number_of_texts_and_names(size, annotated, cut_off):
    figure = confusion_figure(mostly_right(size), EMNIST[:size], "EMNIST")
    axes = figure.axes[0]
    assert len(axes.texts) == (size * size if annotated else 0)
    assert cell_shares(figure).shape == (size, size)
    assert tick_names(axes.xaxis) == tick_names(axes.yaxis) == EMNIST[:size]
    assert cut_off(figure) == []


@pytest.mark.parametrize("size", [2, 10, 15])
def test_texts_fit_into_their_cells(size, cut_off):
    figure = confusion_figure(np.full((size, size), 99_999), EMNIST[:size], "t")
    cut_off(figure)
    axes = figure.axes[0]
    cell = axes.bbox.width / size
    assert max(text.get_window_extent().width for text in axes.texts) < cell
    assert max(text.get_window_extent().height for text in axes.texts) < cell


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(DIGITS, id="digits"),
        pytest.param(GARMENTS, id="garments"),
        pytest.param([f"{name}, a quite particular kind of it" for name in GARMENTS], id="very long"),
        pytest.param(["", " ", "$", "$$", "$a$", "$\\frac$", "_a", "\\", "%", "{}"], id="signs that are no markup"),
    ],
)
def test_names_are_neither_cut_off_nor_on_top_of_each_other(names, cut_off):
    figure = confusion_figure(mostly_right(10), names, "t")
    assert cut_off(figure) == []
    axes = figure.axes[0]
    assert tick_names(axes.xaxis) == names
    labels = axes.get_xticklabels()
    if labels[0].get_rotation() == 0:
        boxes = [label.get_window_extent() for label in labels if label.get_text().strip()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_names_with_control_characters_show_their_escapes():
    figure = confusion_figure(mostly_right(2), ["a\x1b[31m", "\udc80\u202e"], "t")
    assert tick_names(figure.axes[0].xaxis) == ["a\\x1b[31m", "\\udc80\\u202e"]


def test_colour_bar_is_in_percent():
    bar = confusion_figure(mostly_right(10), DIGITS, "t").axes[1]
    assert tick_names(bar.yaxis) == ["0 %", "0.1 %", "1 %", "10 %", "50 %", "100 %"]
    assert bar.get_ylabel() == "share of the true class"


def test_tensor_and_array_give_the_same_figure():
    counts = mostly_right(10)
    figures = [confusion_figure(given, DIGITS, "t") for given in (counts, torch.from_numpy(counts))]
    assert cell_texts(figures[0]).tolist() == cell_texts(figures[1]).tolist()


@pytest.mark.parametrize(
    ("counts", "names", "message"),
    [
        pytest.param(np.zeros((2, 3), int), ["a", "b"], r"counts .*\(2, 3\)", id="not square"),
        pytest.param(np.zeros(4, int), ["a", "b"], r"counts .*\(4,\)", id="a vector"),
        pytest.param(np.zeros((0, 0), int), [], r"counts .*\(0, 0\)", id="no class"),
        pytest.param(np.eye(2), ["a", "b"], "counts .* integers .*float64", id="fractions"),
        pytest.param([[1, -1], [0, 1]], ["a", "b"], "counts .*-1", id="negative"),
        pytest.param(np.eye(2, dtype=int), ["a"], "class_names .* 2 .* 1", id="too few names"),
    ],
)
def test_bad_input(counts, names, message):
    with pytest.raises(ValueError, match=message):
        confusion_figure(counts, names, "t")
