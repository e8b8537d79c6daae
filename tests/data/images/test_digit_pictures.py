"""MNIST's test digits as people would photograph them, and what a network makes of them: as of the originals."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning.data.images.digit_pictures import mnist_picture
from mlp_lightning.data.images.pictures import open_picture, pixels
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.model import load

COUNT = 80


@pytest.fixture(scope="module")
def originals(digits):
    return digits.test_x[:COUNT].view(-1, 28, 28).numpy()


def enlarged(digit, factor):
    side = 28 * factor
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)


def laid(digit, factor, size, rng):
    """Somewhere on a large black page."""
    page, large = np.zeros(size, dtype="f4"), enlarged(digit, factor)
    side = len(large)
    row, column = (int(rng.integers(0, length - side + 1)) for length in size)
    page[row : row + side, column : column + side] = large
    return page


def scanned(digit, rng, *, factor=12, noise=0.04, contrast=0.75, quality=60):
    """Ink on paper that is lit from one side, with noise, as a JPEG."""
    size = (700, 560)
    row, column = np.mgrid[-0.5:0.5:700j, -0.5:0.5:560j]
    angle = rng.uniform(0, 2 * np.pi)
    light = 0.72 + 0.3 * (row * np.sin(angle) + column * np.cos(angle)) - 0.1 * (row**2 + column**2)
    page = light * (1 - contrast * laid(digit, factor, size, rng)) + rng.normal(0, noise, size)
    file = io.BytesIO()
    Image.fromarray((page.clip(0, 1) * 255).astype("u1")).save(file, "JPEG", quality=quality)
    return pixels(open_picture(Image.open(file)), 1)


# For each way the least number of the 80 that must be classified as the original is; measured were 78 to 80.
WAYS = {
    "as it is": (lambda digit, rng: digit, 80),
    "inverted": (lambda digit, rng: 1 - digit, 79),
    "enlarged": (lambda digit, rng: enlarged(digit, 10), 77),
    "shifted on a page, dark on light": (lambda digit, rng: 1 - laid(digit, 8, (500, 380), rng), 77),
    "small on a page": (lambda digit, rng: laid(digit, 3, (500, 500), rng), 77),
    "scanned": (scanned, 77),
    "scanned badly": (lambda digit, rng: scanned(digit, rng, noise=0.08, contrast=0.5, quality=30), 77),
    "scanned small": (lambda digit, rng: scanned(digit, rng, factor=5), 77),
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if "scanned " in way else ()) for way in WAYS]
)
def test_is_classified_as_the_original(way, originals, digit_checkpoint):
    make, least = WAYS[way]
    rng = np.random.default_rng(0)
    seen = np.stack([mnist_picture(make(digit, rng)) for digit in originals])
    model = load(digit_checkpoint)
    given, expected = (
        model.probabilities(torch.tensor(images).reshape(COUNT, -1)).argmax(1) for images in (seen, originals)
    )
    agree = int((given == expected).sum())
    assert agree >= least


def test_mnist_itself_comes_back(originals):
    seen = np.stack([mnist_picture(digit) for digit in originals])
    assert abs(seen - originals).mean() < 0.002
    # The very pixels lie where they lay: the box and the centre of mass are found as LeCun did.
    assert np.mean([np.array_equal(a > 0.1, b > 0.1) for a, b in zip(seen, originals, strict=True)]) > 0.8


def strokes(width):
    """A cross of dark lines on a light page of 300 × 300."""
    page = np.full((300, 300), 0.9, dtype="f4")
    page[40:260, 150 - width // 2 : 150 - width // 2 + width] = 0.1
    page[150 - width // 2 : 150 - width // 2 + width, 90:210] = 0.1
    return page


@pytest.mark.parametrize("width", [2, 4, 10, 22])
def test_strokes_are_as_thick_as_mnists(width):
    seen = mnist_picture(strokes(width))
    assert seen.max() == 1
    across = (seen[8] > 0.4).sum()
    assert 2 <= across <= 3
    assert seen.shape == (28, 28)
    rows = np.flatnonzero((seen > 0.2).any(1))
    assert rows[-1] - rows[0] + 1 == 20


def test_the_centre_of_mass_is_in_the_middle():
    page = np.zeros((100, 100), dtype="f4")
    page[10:50, 20:28] = 1
    page[42:50, 20:50] = 1
    seen = mnist_picture(page)
    middle = [float((seen.sum(1 - axis) * np.arange(28)).sum() / seen.sum()) for axis in (0, 1)]
    assert middle == pytest.approx([14, 14], abs=0.5)


def test_invert_overrules_what_is_seen(originals):
    digit = originals[0]
    never, always = mnist_picture(digit, invert="never"), mnist_picture(digit, invert="always")
    np.testing.assert_allclose(mnist_picture(1 - digit, invert="always"), never, atol=1e-4)
    assert abs(always - never).mean() > 0.1


def test_dust_is_left_out(originals):
    page = np.zeros((280, 280), dtype="f4")
    page[:] = enlarged(originals[0], 10)
    clean = mnist_picture(page)
    page[3:9, 3:9] = page[270:275, 100:104] = 1
    # Dust that counts would make the box that of the whole page.
    assert abs(mnist_picture(page) - clean).mean() < 0.01


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (3000, 2), (140, 140)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_empty_page_is_refused(shape, value):
    with pytest.raises(UserError, match=r"^x\.png: nothing stands out from the background$"):
        mnist_picture(np.full(shape, value, dtype="f4"), name="x.png")


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2), (5, 300), (300, 5), (28, 28), (64, 1000)])
@pytest.mark.parametrize("invert", ["auto", "always", "never"])
def test_anything_else_gives_a_picture_or_a_refusal(shape, invert):
    noise = np.random.default_rng(0).random(shape).astype("f4")
    try:
        seen = mnist_picture(noise, invert=invert)
    except UserError:
        return
    assert seen.shape == (28, 28)
    assert seen.dtype == np.float32
    assert seen.min() >= 0
    assert seen.max() == 1
