"""Pictures of every kind that people have, written by pillow and read back; and files that are no pictures."""

import warnings

import numpy as np
import pytest
from PIL import Image

from mlp_lightning.data.images import pictures
from mlp_lightning.data.images.pictures import open_picture, picture_size, read_picture
from mlp_lightning.errors import UserError

GREY = np.arange(24, dtype="u1").reshape(4, 6) * 10
COLOUR = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype="u1")


def saved(folder, image, name="it.png", **options):
    path = folder / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "pgm", "webp"])
def test_pixels_of_a_lossless_file_are_exact(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path, Image.fromarray(GREY), f"it.{suffix}", **options)
    read = read_picture(path, 4, 6, 1)
    assert read.dtype == np.float32
    assert np.array_equal(read, (GREY / np.float32(255)).astype("f4"))


def test_colour_keeps_its_channels_and_turns_grey_by_luma(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOUR))
    assert np.array_equal(read_picture(path, 4, 6, 3), COLOUR / np.float32(255))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_picture(path, 4, 6, 1) * 255, luma, atol=1)
    assert picture_size(path) == (4, 6, 3)


def test_grey_fills_the_channels_of_colour(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY))
    read = read_picture(path, 4, 6, 3)
    assert all(np.array_equal(read[:, :, k], GREY / np.float32(255)) for k in range(3))
    assert picture_size(path) == (4, 6, 1)


def test_sixteen_bits_keep_their_steps(tmp_path):
    deep = np.arange(24, dtype="u2").reshape(4, 6) * 7 + 30_000
    path = saved(tmp_path, Image.fromarray(deep))
    np.testing.assert_allclose(read_picture(path, 4, 6, 1) * 65535, deep, atol=0.01)
    assert picture_size(path) == (4, 6, 1)


def test_one_bit_and_palette(tmp_path):
    bits = saved(tmp_path, Image.fromarray(GREY > 100), "bits.png")
    assert np.array_equal(read_picture(bits, 4, 6, 1), GREY > 100)
    palette = saved(tmp_path, Image.fromarray(COLOUR).quantize(256), "palette.png")
    np.testing.assert_allclose(read_picture(palette, 4, 6, 3) * 255, COLOUR, atol=8)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_what_is_transparent_is_white(mode):
    alpha = np.full((4, 6), 255, dtype="u1")
    alpha[:2] = 0
    image = Image.new(mode, (6, 4))
    image.putalpha(Image.fromarray(alpha))
    assert np.array_equal(read_picture(image, 4, 6, 1), (alpha == 0).astype("f4"))


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_colour_that_the_file_declares_transparent_is_white(tmp_path, mode):
    black_and_grey = Image.fromarray(np.where(GREY < 100, 0, 51).astype("u1"))
    image = black_and_grey.quantize(2) if mode == "P" else black_and_grey.convert(mode)
    declared = (0, 0, 0) if mode == "RGB" else image.getpixel((0, 0))
    path = saved(tmp_path, image, transparency=declared)
    np.testing.assert_allclose(read_picture(path, 4, 6, 1), np.where(GREY < 100, 1, 0.2), atol=0.005)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_photograph_upright(tmp_path, orientation):
    inverse = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    lying = Image.fromarray(GREY)
    for turn in inverse:
        lying = lying.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, lying, exif=exif)
    assert np.array_equal(np.asarray(open_picture(path)), GREY)


def test_jpeg_in_grey_colour_and_four_inks(tmp_path):
    smooth = np.linspace(40, 200, 64 * 64).reshape(64, 64).astype("u1")
    for mode in ("L", "RGB", "CMYK"):
        path = saved(tmp_path, Image.fromarray(smooth).convert(mode), f"{mode}.jpg", quality=95)
        np.testing.assert_allclose(read_picture(path, 64, 64, 1) * 255, smooth, atol=6)


def test_a_smaller_picture_is_an_average(tmp_path):
    """With antialias: every second pixel of these stripes would be all black or all white."""
    stripes = np.zeros((64, 64), dtype="u1")
    stripes[:, ::2] = 255
    read = read_picture(saved(tmp_path, Image.fromarray(stripes)), 8, 8, 1)
    np.testing.assert_allclose(read[:, 1:-1], 0.5, atol=0.03)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2000, 1500)])
def test_any_size(tmp_path, size):
    path = saved(tmp_path, Image.new("L", size, 51))
    read = read_picture(path, 28, 28, 1)
    assert read.shape == (28, 28)
    np.testing.assert_allclose(read, 0.2, atol=0.005)


def test_the_first_of_several_frames(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = saved(tmp_path, frames[0], "it.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(read_picture(path, 4, 6, 1), GREY / np.float32(255))


def test_a_picture_of_pillow_is_left_as_it_was():
    image = Image.fromarray(COLOUR)
    read_picture(image, 2, 3, 1)
    assert image.size == (6, 4)
    assert np.array_equal(np.asarray(image), COLOUR)


WHOLE = b"\x89PNG\r\n\x1a\n"
BROKEN = {
    "empty.png": (b"", "the file is empty"),
    "text.png": (b"hello\n", "is no picture in a known format"),
    "header.png": (WHOLE + bytes(20), "is no picture in a known format"),
    "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is no picture in a known format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_is_named(tmp_path, name):
    contents, expected = BROKEN[name]
    (tmp_path / name).write_bytes(contents)
    assert_refused(tmp_path / name, expected)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_file_that_is_cut_off(tmp_path, suffix):
    path = saved(
        tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), dtype="u1")), f"a.{suffix}"
    )
    path.write_bytes(path.read_bytes()[:1500])
    assert_refused(path, "")


def test_a_missing_file_and_a_folder(tmp_path):
    assert_refused(tmp_path / "none.png", "there is no such file")
    assert_refused(tmp_path, "Is a directory")


def test_too_many_pixels_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("L", (50, 40)))
    monkeypatch.setattr(pictures, "MOST_PIXELS", 1999)
    assert_refused(path, "50 × 40 pixels, must be from 1 to 1,999")


def test_a_bomb_is_refused(tmp_path):
    path = saved(tmp_path, Image.new("1", (20_000, 9_000)))
    assert_refused(path, "pixels")


def assert_refused(path, expected):
    with warnings.catch_warnings():
        # Also of a file that is left open.
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            read_picture(path, 28, 28, 1)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message
