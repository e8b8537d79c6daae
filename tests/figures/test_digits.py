from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.offsetbox import AnnotationBbox, TextArea

from mlp_lightning.figures import digits_figure, mistakes_figure, predictions_figure, to_rgb
from mlp_lightning.figures.style import INK, RIGHT, WRONG

DIGITS = [str(digit) for digit in range(10)]
GARMENTS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def captions(figure):
    """For each tile, in reading order, the words of its caption with their colours."""
    boxes = [artist for artist in figure.axes[0].artists if isinstance(artist, AnnotationBbox)]
    return [[(area.get_text(), area.get_children()[0].get_color()) for area in box.findobj(TextArea)] for box in boxes]


def sentences(figure):
    return [" ".join(word for word, _ in caption) for caption in captions(figure)]


def sheet(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (20, 5, 4), (25, 5, 5), (26, 6, 5)]
)
def test_grid(count, columns, rows, cut_off):
    images = np.full((count, 28, 28), 0.5)
    figure = digits_figure(images, np.arange(count) % 10, DIGITS, "Digits")
    assert sentences(figure) == [str(label % 10) for label in range(count)]
    places = [box.xy for box in figure.axes[0].artists]
    assert len({x for x, _ in places}) == columns
    assert len({y for _, y in places}) == rows
    assert places == sorted(places, key=lambda place: (place[1], place[0]))
    assert cut_off(figure) == []
    assert figure.get_suptitle() == "Digits"


@pytest.mark.parametrize("colours", [(), (3,)], ids=["grey", "colour"])
def test_each_image_stands_above_its_caption(colours):
    images = np.random.default_rng(0).random((7, 12, 8, *colours))
    figure = digits_figure(images, np.zeros(7, int), DIGITS, "t")
    for image, box in zip(images, figure.axes[0].artists, strict=True):
        middle, bottom = box.xy
        tile = sheet(figure)[int(bottom) - 12 : int(bottom), int(middle) - 4 : int(middle) + 4]
        np.testing.assert_array_equal(tile, image)


def test_pixels_are_drawn_as_given(caplog):
    images = np.zeros((4, 28, 28, 3))
    images[1, ..., 0] = images[2, ..., 1] = 1
    images[3] = 7  # beyond the range: as bright as white
    figure = digits_figure(images, np.zeros(4, int), DIGITS, "t")
    pixels = to_rgb(figure)
    axes = figure.axes[0]
    seen = []
    for box in axes.artists:
        x, y = axes.transData.transform((box.xy[0], box.xy[1] - 14))
        seen.append(pixels[pixels.shape[0] - 1 - round(y), round(x)].tolist())
    assert seen == [[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 255]]
    assert caplog.records == []  # matplotlib logs a complaint about values out of range


def test_tensors_and_arrays_give_the_same_figure():
    images, labels = torch.rand(3, 5, 5), torch.tensor([3, 1, 2])
    figures = [digits_figure(*given, DIGITS, "t") for given in [(images, labels), (images.numpy(), labels.numpy())]]
    assert sentences(figures[0]) == sentences(figures[1]) == ["3", "1", "2"]
    np.testing.assert_array_equal(sheet(figures[0]), sheet(figures[1]))


def test_no_digits(cut_off):
    figure = digits_figure(np.zeros((0, 28, 28)), np.zeros(0, int), DIGITS, "t")
    assert [text.get_text() for text in figure.axes[0].texts] == ["no digits"]
    assert cut_off(figure) == []


def test_mistakes_come_worst_first_and_right_ones_are_left_out():
    images = np.arange(4)[:, None, None] / 10 + np.zeros((4, 6, 6))
    figure = mistakes_figure(images, [4, 3, 7, 5], [9, 3, 1, 6], [0.6, 0.999, 0.997, 0.8], DIGITS, "Mistakes")
    assert sentences(figure) == ["7 → 1 (99.7 %)", "5 → 6 (80.0 %)", "4 → 9 (60.0 %)"]
    tops = [sheet(figure)[int(box.xy[1]) - 3, int(box.xy[0])] for box in figure.axes[0].artists]
    np.testing.assert_allclose(tops, [0.2, 0.3, 0.0])


def test_target_and_prediction_differ_in_colour():
    figure = mistakes_figure(np.zeros((2, 6, 6)), [4, 1], [9, 2], [0.9, 0.8], DIGITS, "t")
    (target, _, prediction, _), (other_target, _, other_prediction, _) = captions(figure)
    assert target[1] == other_target[1] != prediction[1] == other_prediction[1]


def test_at_most_25_mistakes():
    confidences = np.linspace(0, 1, 40)
    figure = mistakes_figure(np.zeros((40, 6, 6)), np.zeros(40, int), np.ones(40, int), confidences, DIGITS, "t")
    assert len(captions(figure)) == 25
    assert sentences(figure)[0] == "0 → 1 (100.0 %)"


@pytest.mark.parametrize("count", [0, 3], ids=["nothing given", "all right"])
def test_no_mistakes(count, cut_off):
    labels = np.arange(count)
    figure = mistakes_figure(np.zeros((count, 28, 28)), labels, labels, np.ones(count), DIGITS, "t")
    assert [text.get_text() for text in figure.axes[0].texts] == ["no mistakes"]
    assert cut_off(figure) == []


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(DIGITS, id="digits"),
        pytest.param(GARMENTS, id="garments"),
        pytest.param([f"{name} and its kind" for name in GARMENTS], id="long"),
        pytest.param(["$a$", "$", "_", "$\\frac$", "%", "W" * 12, "i", "m" * 12, "{}", "\\"], id="odd signs"),
    ],
)
def test_captions_do_not_touch(names, cut_off):
    targets = np.arange(25) % 10
    figure = mistakes_figure(np.zeros((25, 28, 28)), targets, (targets + 1) % 10, np.ones(25), names, "t")
    assert cut_off(figure) == []
    boxes = [box.get_window_extent() for box in figure.axes[0].artists]
    for row in range(5):
        neighbours = boxes[5 * row : 5 * row + 5]
        assert all(left.x1 < right.x0 for left, right in pairwise(neighbours))


def test_not_a_number_as_confidence_comes_last():
    figure = mistakes_figure(np.zeros((2, 6, 6)), [4, 1], [9, 2], [float("nan"), 0.8], DIGITS, "t")
    assert sentences(figure) == ["1 → 2 (80.0 %)", "4 → 9 (nan %)"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        pytest.param(np.zeros((2, 784)), [0, 1], r"images .*\(2, 784\)", id="flat images"),
        pytest.param(np.zeros((2, 1, 28, 28)), [0, 1], r"images .*\(2, 1, 28, 28\)", id="channel first"),
        pytest.param(np.zeros((2, 4, 4), np.uint8), [0, 1], "images .* uint8", id="bytes"),
        pytest.param(np.zeros((2, 4, 4)), [0], r"labels .*\(2,\).*\(1,\)", id="too few labels"),
        pytest.param(np.zeros((2, 4, 4)), [0, 10], r"labels .* 0..9, got 0..10", id="unknown class"),
        pytest.param(np.zeros((2, 4, 4)), [-1, 1], r"labels .* 0..9, got -1..1", id="negative label"),
    ],
)
def test_bad_digits(images, labels, message):
    with pytest.raises(ValueError, match=message):
        digits_figure(images, labels, DIGITS, "t")


@pytest.mark.parametrize(
    ("targets", "predictions", "confidences", "message"),
    [
        pytest.param([0, 1, 2], [1, 1], [1.0, 1.0], r"targets .*\(3,\)", id="targets"),
        pytest.param([0, 1], [1], [1.0, 1.0], r"predictions .*\(1,\)", id="predictions"),
        pytest.param([0, 1], [1, 12], [1.0, 1.0], r"predictions .*12", id="unknown class"),
        pytest.param([0, 1], [1, 1], [[1.0], [1.0]], r"confidences .*\(2, 1\)", id="confidences"),
    ],
)
def test_bad_mistakes(targets, predictions, confidences, message):
    with pytest.raises(ValueError, match=message):
        mistakes_figure(np.zeros((2, 4, 4)), targets, predictions, confidences, DIGITS, "t")


def test_predictions_are_captioned_and_coloured_where_the_truth_is_known(cut_off):
    images, shares = np.random.default_rng(0).random((3, 28, 28)), np.array([0.987, 0.5, 1])
    figure = predictions_figure(images, ["cat", "dog", "$"], shares, ["cat", "cat", None], "Seen")
    assert sentences(figure) == ["cat 98.7 %", "dog 50.0 %", "$ 100.0 %"]
    assert [caption[0][1] for caption in captions(figure)] == [RIGHT, WRONG, INK]
    assert cut_off(figure) == []


@pytest.mark.parametrize(
    ("predictions", "shares", "labels"),
    [(["a"], [1, 1], [None] * 2), (["a"] * 2, [1], [None] * 2), (["a"] * 2, [1, 1], [None])],
)
def test_predictions_must_be_as_many_as_images(predictions, shares, labels):
    with pytest.raises(ValueError, match="a prediction, a probability and a label for each of 2 images"):
        predictions_figure(np.zeros((2, 4, 4)), predictions, shares, labels, "t")
