"""Kinds of pixels beyond 8 bits of grey or colour: read as NumPy computes them from the file's numbers, or refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mlp_lightning.data.images.pictures import open_picture, pixels, read_picture
from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError

GREY = np.arange(24, dtype="u1").reshape(4, 6) * 10
DEEP = np.arange(24, dtype="u2").reshape(4, 6) * 2500
HALF = (np.arange(24, dtype="u2").reshape(4, 6) % 3 * 32767).astype("u2")
COLOURS = {"grey": 0, "colour": 2, "palette": 3, "grey and alpha": 4, "colour and alpha": 6}


def png(path, samples, bits, kind="grey", palette=b"", transparent=b""):
    """A PNG file by the specification, without pillow: ``samples`` (H, W) or (H, W, C) of ``bits`` each."""

    def chunk(name, contents):
        return struct.pack(">I", len(contents)) + name + contents + struct.pack(">I", zlib.crc32(name + contents))

    height, width = samples.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        unpacked = np.unpackbits(samples.astype("u1").reshape(height, -1, 1), axis=2)[:, :, 8 - bits :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in unpacked]
    contents = b"\x89PNG\r\n\x1a\n"
    contents += chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, COLOURS[kind], 0, 0, 0))
    contents += chunk(b"PLTE", palette) if palette else b""
    contents += chunk(b"tRNS", transparent) if transparent else b""
    contents += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [None, 0, 1])
def test_grey_of_any_depth_with_and_without_a_transparent_shade(tmp_path, bits, transparent):
    most = 2**bits - 1
    samples = np.arange(24).reshape(4, 6) * 997 % (most + 1)
    samples[1, 2] = transparent or 0
    held = b"" if transparent is None else struct.pack(">H", transparent)
    path = png(tmp_path / "it.png", samples, bits, transparent=held)
    expected = np.where(samples == transparent, 1, samples / most)
    assert np.array_equal(read_picture(path, 4, 6, 1), expected.astype("f4"))
    assert open_picture(path).mode in ("L", "F")


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_alpha_is_grey_over_white(tmp_path, bits):
    most = 2**bits - 1
    grey, alpha = (plane.astype("i8") * most // 65535 for plane in (DEEP, HALF))
    path = png(tmp_path / "it.png", np.stack([grey, alpha], 2), bits, "grey and alpha")
    expected = (grey * alpha + most * (most - alpha)) / most**2
    # Pillow keeps the upper 8 of 16 bits.
    np.testing.assert_allclose(read_picture(path, 4, 6, 1), expected, atol=2.1 / 255)
    assert open_picture(path).mode == "L"


@pytest.mark.parametrize("kind", ["colour", "colour and alpha"])
def test_sixteen_bits_a_colour(tmp_path, kind):
    colours = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], 2)
    alpha = np.full((4, 6, 1), 65535, "u2")
    samples = colours if kind == "colour" else np.concatenate([colours, alpha], 2)
    path = png(tmp_path / "it.png", samples, 16, kind)
    np.testing.assert_allclose(read_picture(path, 4, 6, 3), colours / 65535, atol=1.01 / 255)


def test_sixteen_bits_a_colour_with_a_transparent_one_are_refused(tmp_path):
    colours = np.stack([DEEP] * 3, 2)
    path = png(tmp_path / "it.png", colours, 16, "colour", transparent=struct.pack(">3H", 0, 0, 0))
    with pytest.raises(UserError, match="16 bits a colour, of which one is transparent"):
        open_picture(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [b"", b"\0"], ids=["opaque", "first is transparent"])
def test_a_grey_palette_is_grey(tmp_path, bits, transparent):
    shades = np.arange(2**bits) * 7 % 256
    samples = np.arange(24).reshape(4, 6) % 2**bits
    palette = np.repeat(shades.astype("u1"), 3).tobytes()
    path = png(tmp_path / "it.png", samples, bits, "palette", palette, transparent)
    expected = np.where((samples == 0) & bool(transparent), 1, shades[samples] / 255)
    assert open_picture(path).mode == "L"
    assert np.array_equal(read_picture(path, 4, 6, 1), expected.astype("f4"))


def test_a_folder_of_grey_palettes_trains_grey_and_one_colour_makes_it_rgb(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(8):
            Image.fromarray(GREY).save(tmp_path / name / f"{k}.gif")
            Image.fromarray(GREY).convert("P").save(tmp_path / name / f"{k}.png")
    data = DataModule(dataset="image_folder", root=str(tmp_path)).data
    assert data.image_shape == (4, 6)
    assert np.array_equal(data.train_x[0].numpy(), (GREY / np.float32(255)).reshape(-1))
    red = np.zeros((4, 6, 3), "u1")
    red[..., 0] = 255
    Image.fromarray(red).quantize(4).save(tmp_path / "a" / "red.png")
    data = DataModule(dataset="image_folder", root=str(tmp_path)).data
    assert data.image_shape == (4, 6, 3)


def saved(path, array, photometric=None):
    tags = ImageFileDirectory_v2()
    if photometric is not None:
        tags[262] = photometric
    Image.fromarray(array).save(path, tiffinfo=tags)
    return path


@pytest.mark.parametrize(
    ("kind", "zero_is_white"), [("u2", False), (">u2", False), ("f4", False), ("u2", True), ("f4", True)]
)
def test_deep_tiff_either_way_round(tmp_path, kind, zero_is_white):
    array = (DEEP / 65535).astype("f4") if kind == "f4" else DEEP.astype(kind)
    path = saved(tmp_path / "it.tif", array, 0 if zero_is_white else None)
    expected = DEEP / 65535
    np.testing.assert_allclose(read_picture(path, 4, 6, 1), 1 - expected if zero_is_white else expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["i4", "u4", "i2"])
def test_whole_numbers_without_a_known_white_are_refused(tmp_path, kind):
    path = saved(tmp_path / "it.tif", GREY.astype(kind))
    with pytest.raises(UserError, match="32-bit or signed whole numbers, must hold 8 or 16 bits"):
        open_picture(path)
    with pytest.raises(UserError, match="32-bit or signed whole numbers"):
        open_picture(Image.fromarray(GREY.astype("i4")))


@pytest.mark.parametrize("value", [np.nan, 1.5, -0.1, 255])
def test_floats_are_fractions(tmp_path, value):
    array = (GREY / 255).astype("f4")
    array[2, 3] = value
    with pytest.raises(UserError, match="must be 8 or 16 bits, or fractions from 0 to 1"):
        open_picture(saved(tmp_path / "it.tif", array))


@pytest.mark.parametrize("most", [15, 255, 300, 1023, 65535])
@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_pgm_of_any_white(tmp_path, most, text):
    samples = np.arange(24).reshape(4, 6) * 997 % (most + 1)
    if text:
        contents = f"P2 6 4 {most}\n{' '.join(map(str, samples.ravel()))}\n".encode()
    else:
        contents = f"P5 6 4 {most}\n".encode() + samples.astype("u1" if most < 256 else ">u2").tobytes()
    (tmp_path / "it.pgm").write_bytes(contents)
    # Pillow rounds to 8 bits, or to 16.
    np.testing.assert_allclose(read_picture(tmp_path / "it.pgm", 4, 6, 1), samples / most, atol=0.51 / 255)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_other_spaces_of_colour(tmp_path, mode):
    colour = np.full((4, 6, 3), (200, 100, 50), "u1")
    image = Image.fromarray(colour).convert(mode)
    for read in (image, image):
        np.testing.assert_allclose(read_picture(read, 4, 6, 3) * 255, colour, atol=6)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_colours_that_were_multiplied_by_their_alpha(mode):
    grey, alpha = np.full((4, 6), 100, "u1"), np.full((4, 6), 128, "u1")
    planes = [grey] * (1 if mode == "La" else 3) + [alpha]
    straight = Image.merge("LA" if mode == "La" else "RGBA", [Image.fromarray(plane) for plane in planes])
    expected = (100 * 128 + 255 * 127) / 255**2
    for image in (straight, straight.convert(mode)):
        np.testing.assert_allclose(read_picture(image, 4, 6, 1), expected, atol=2.1 / 255)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_turns_deep_pictures_too(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = np.rot90(DEEP, {3: 2, 6: 1, 8: 3}[orientation])
    Image.fromarray(np.ascontiguousarray(lying)).save(tmp_path / "it.png", exif=exif)
    np.testing.assert_allclose(read_picture(tmp_path / "it.png", 4, 6, 1) * 65535, DEEP, atol=0.01)


def test_the_first_frame_of_animations(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for suffix, options in (("png", {}), ("webp", {"lossless": True}), ("tif", {})):
        path = tmp_path / f"it.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(pixels(open_picture(path), 1), GREY / np.float32(255))
