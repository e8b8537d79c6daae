import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from mlp_lightning.commands.explain.pictures import picture_of
from mlp_lightning.commands.explain.step import Step


def picture(detail, view="heat", small=False, **options):
    return picture_of(Step("forward", "Z", "", "", detail, "", detail=detail, view=view, **options), small=small)


def pixels(markup: str) -> np.ndarray:
    data = re.search(r'src="data:image/png;base64,([^"]+)"', markup)[1]
    return imread(io.BytesIO(base64.b64decode(data)))[..., :3]


def size(markup: str) -> tuple[int, int]:
    return tuple(int(re.search(rf'{name}="(\d+)"', markup)[1]) for name in ("width", "height"))


def test_no_view_no_picture():
    assert picture(torch.ones(3), "none") is None


def test_an_image_is_dark_where_it_is_large():
    shown = pixels(picture(torch.tensor([[0.0, 0.5, 1.0], [-1.0, 2.0, math.nan]]), "image").markup)
    assert shown.shape == (2, 3, 3)
    assert shown[0, 0].min() == 1
    assert shown[0, 2].max() == 0
    assert 0.3 < shown[0, 1].mean() < 0.7
    assert np.array_equal(shown[1, :2], shown[0, [0, 2]])


def test_heat_is_symmetric_about_a_white_zero():
    drawn = picture(torch.tensor([[-2.0, -1.0, 0.0, 1.0]] * 20))
    shown = pixels(drawn.markup)
    assert drawn.limit == 2
    assert shown[0, 2].min() > 0.95
    red, green, blue = shown[0, 3]
    assert red > blue
    assert red > green
    blue_side, red_side = shown[0, 1], shown[0, 3]
    assert blue_side[2] > blue_side[0]
    # One unit away from zero on either side is as far from white.
    assert abs(float(blue_side.min() - red_side.min())) < 0.2
    assert shown[0, 0].sum() < shown[0, 1].sum()


def test_heat_of_zeros_is_white():
    for zeros in (torch.zeros(6), torch.zeros(3, 4), torch.zeros(2, 3, 3)):
        assert picture(zeros).limit == 1
    assert pixels(picture(torch.zeros(3, 4)).markup).min() > 0.95


def test_what_is_no_number_is_grey():
    shown = pixels(picture(torch.tensor([[math.nan, 1.0, math.inf]])).markup)
    assert np.array_equal(shown[0, 0], shown[0, 2])
    assert np.ptp(shown[0, 0]) < 0.05


@pytest.mark.parametrize("length", [1, 2, 7, 10, 97, 100, 250, 500, 784, 1000, 2500])
def test_a_vector_keeps_every_entry_in_order(length):
    vector = torch.linspace(-1, 1, length)
    shown = pixels(picture(vector).markup)
    assert shown.shape[0] * shown.shape[1] >= length
    # From blue to red: the red channel less the blue one rises.
    tone = (shown[..., 0] - shown[..., 2]).reshape(-1)[:length]
    ends = float(tone[0]), float(tone[-1])
    assert length == 1 or ends[0] < 0 < ends[1]
    assert shown.shape[1] <= 2 * math.sqrt(2 * length)


@pytest.mark.parametrize(
    "shape", [(500,), (2500,), (250, 500), (10, 100), (1000, 3000), (54, 28, 28), (3, 28, 28)], ids=str
)
def test_pictures_fit_the_page(shape):
    drawn = picture(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    width, height = size(drawn.markup)
    rows, columns = pixels(drawn.markup).shape[:2]
    assert drawn.wide == (len(shape) > 1)
    assert width <= (1100 if drawn.wide else 402)
    assert height <= 1100
    # Cells are whole and square.
    assert width % columns == 0
    assert width * rows == height * columns


def test_rows_left_out_are_mentioned():
    assert picture(torch.ones(1000, 500)).caption.endswith("every 4. row and every 1. column")


def test_bars_are_as_long_as_their_values():
    drawn = picture(torch.tensor([0.5, -0.25, 0.0]), "bars", labels=("a", "b", "c"), marked=1)
    bars = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)" height="\d+" fill="(#\w+)"', drawn.markup)
    (x0, width0, fill0), (x1, width1, fill1), (x2, width2, fill2) = [(float(x), float(w), f) for x, w, f in bars]
    assert width0 == pytest.approx(2 * width1, abs=0.2)
    assert x1 + width1 == pytest.approx(x0, abs=0.2)
    assert x2 == pytest.approx(x0, abs=0.2)
    assert width2 < 1
    assert fill0 == fill2 != fill1
    assert re.findall(r">([^<>]+)</text>", drawn.markup) == ["a", "0.5", "b", "−0.25", "c", "0"]


def test_small_pictures_are_smaller():
    for detail, view in ((torch.ones(500), "heat"), (torch.ones(10), "bars")):
        assert size(picture(detail, view, small=True).markup)[0] < size(picture(detail, view).markup)[0]
