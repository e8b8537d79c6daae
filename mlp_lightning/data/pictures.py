"""Picture files as arrays: any size, any kind of pixel, upright, over white, scaled to what a network takes."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# What pillow may open: formats of pixels. Others start further programs (EPS starts Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})
# A small file may unpack to a picture that fills the memory.
MOST_PIXELS = 100_000_000


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders below it, known by their suffix, in order; hidden ones are left out."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(
        path for path in files if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def open_picture(source: "str | os.PathLike[str] | Image", *, name: str | None = None) -> "Image":
    """A picture, upright and over white, in the mode L or RGB, or F with values in [0, 1] where it has 16 bits.

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
    image.load()
    return _plain(ImageOps.exif_transpose(image))


def _plain(image: "Image") -> "Image":
    from PIL import Image

    if image.has_transparency_data:
        visible = image.convert("RGBA")
        white = Image.new("RGBA", visible.size, "white")
        grey = image.mode in ("L", "LA", "La", "1")
        return Image.alpha_composite(white, visible).convert("L" if grey else "RGB")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32) / np.float32(1 if image.mode == "F" else 65535)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("its values must be 8 or 16 bits, or fractions from 0 to 1")
        return Image.fromarray(values)
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


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
