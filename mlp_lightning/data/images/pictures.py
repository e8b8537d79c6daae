"""Picture files as arrays: any size, any kind of pixel, upright, over white, scaled to what a network takes."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# What pillow may open: formats of pixels. Others start further programs (EPS starts Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
# A small file may unpack to a picture that fills the memory.
MOST_PIXELS = 100_000_000
# The tag of TIFF that says whether 0 is white; pillow heeds it for 8 bits only.
PHOTOMETRIC = 262


def open_picture(source: "str | os.PathLike[str] | Image", *, name: str | None = None) -> "Image":
    """A picture, upright and over white, in the mode L or RGB, or F with values in [0, 1] where it is grey of 16 bits.

    Args:
        source: A file, whose EXIF orientation counts, or a picture that pillow holds; of several frames the first.
        name: What an error calls it; None for the path.

    Raises:
        UserError: the file is missing, empty, damaged, too large or no picture.
    """
    from PIL import Image, UnidentifiedImageError

    said = name or (str(source) if not isinstance(source, Image.Image) else "the picture")
    try:
        with warnings.catch_warnings():
            # Pillow's remarks on metadata; what is too large is refused below.
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                return _loaded(source)
            if Path(source).stat().st_size == 0:
                raise UserError(f"{said}: the file is empty")
            with Image.open(source, formats=FORMATS) as image:
                return _loaded(image)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{said}: is no picture in a known format ({', '.join(FORMATS)})") from error
    except FileNotFoundError as error:
        raise UserError(f"{said}: there is no such file") from error
    except Exception as error:  # pillow raises whatever the broken byte happened to mean
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{said}: cannot be read as a picture ({reason})") from error


def _loaded(image: "Image") -> "Image":
    from PIL import ImageOps

    width, height = image.size
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"{width} × {height} pixels, must be from 1 to {MOST_PIXELS:,}")
    # What a file says of its pixels is gone from a copy, and some of it once they are loaded.
    stored = _stored(image)
    image.load()
    return _plain(ImageOps.exif_transpose(image), stored)


class _Stored(NamedTuple):
    """How a file holds its pixels, as far as pillow's mode does not tell."""

    raw_mode: str = ""
    is_pnm: bool = False
    zero_is_white: bool = False


def _stored(image: "Image") -> _Stored:
    tile = getattr(image, "tile", None)
    args = tile[0][3] if tile else ""
    raw_mode = str(args[0] if isinstance(args, tuple) and args else args)
    white = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
    return _Stored(raw_mode, image.format == "PPM", white)


def _plain(image: "Image", stored: _Stored) -> "Image":
    if image.mode.startswith("I") or image.mode == "F":
        return _deep(image, stored)
    if image.has_transparency_data:
        if stored.raw_mode == "RGB;16B":
            raise ValueError("16 bits a colour, of which one is transparent; save it with an alpha channel or 8 bits")
        return _over_white(image, stored)
    if image.mode in ("P", "PA"):
        return _grey_if_all_are(image.convert("RGB"))
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _deep(image: "Image", stored: _Stored) -> "Image":
    """Grey of more than 8 bits, as fractions."""
    from PIL import Image

    # Of 32 bits nothing says which number is white; pillow gives those of PGM up to 65535.
    if image.mode == "I" and not stored.is_pnm:
        raise ValueError("it holds 32-bit or signed whole numbers, must hold 8 or 16 bits, or fractions from 0 to 1")
    raw = np.asarray(image)
    values = raw.astype(np.float32) / np.float32(1 if image.mode == "F" else 65535)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError("its values must be 8 or 16 bits, or fractions from 0 to 1")
    if stored.zero_is_white:
        values = 1 - values
    if "transparency" in image.info:
        values[raw == image.info["transparency"]] = 1
    return Image.fromarray(values)


def _over_white(image: "Image", stored: _Stored) -> "Image":
    from PIL import Image

    # Pillow compares a transparent grey of 2 or 4 bits with pixels that it has widened to 8.
    bits = {"L;2": 2, "L;4": 4}.get(stored.raw_mode)
    if bits is not None and "transparency" in image.info:
        image = image.copy()
        image.info["transparency"] *= 255 // (2**bits - 1)
    # Colours that were multiplied by their alpha.
    if image.mode == "La":
        image = image.convert("LA")
    visible = image.convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", visible.size, "white"), visible)
    if image.mode in ("L", "LA", "1") or stored.raw_mode.startswith("LA"):
        return opaque.convert("L")
    opaque = opaque.convert("RGB")
    return _grey_if_all_are(opaque) if image.mode in ("P", "PA") else opaque


def _grey_if_all_are(image: "Image") -> "Image":
    """Of a palette: L where all its pixels are grey."""
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else image


def picture_size(source: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) of a picture as ``open_picture`` reads it, and raises."""
    image = open_picture(source)
    return image.height, image.width, 3 if image.mode == "RGB" else 1


def resized(image: "Image", height: int, width: int) -> "Image":
    """``image`` at another size, with antialias; the very pixels where it has that size already."""
    from PIL import Image

    if image.size == (width, height):
        return image
    enlarged = width > image.width or height > image.height
    # Lanczos rings when it enlarges few pixels.
    return image.resize((width, height), Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS)


def pixels(image: "Image", channels: int) -> NDArray[np.float32]:
    """The pixels of ``open_picture``'s result, float32 in [0, 1]: (H, W) for 1 channel, (H, W, 3) for 3.

    Grey is the luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    """
    if image.mode == "RGB" and channels == 1:
        image = image.convert("L")
    values = np.asarray(image, dtype=np.float32)
    if image.mode != "F":
        values = values / np.float32(255)
    values = values.clip(0, 1)
    return np.stack([values] * 3, axis=2) if channels == 3 and values.ndim == 2 else values


def read_picture(
    source: "str | os.PathLike[str] | Image", height: int, width: int, channels: int, *, name: str | None = None
) -> NDArray[np.float32]:
    """A picture as float32 in [0, 1]: (height, width) for 1 channel, (height, width, 3) for 3.

    Raises as ``open_picture``. A picture of another shape is stretched to this one, which keeps all of it.
    """
    return pixels(resized(open_picture(source, name=name), height, width), channels)
