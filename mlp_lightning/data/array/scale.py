"""The scale of the numbers in arrays: learned from the training samples, kept, and the same for every other file.

Bytes of pixels are divided by 255. Which numbers these are is decided once, by the training samples: later files may
hold the same numbers in another type.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.data.array.files import Part
from mlp_lightning.data.array.preprocessing import ArrayPreprocessing, ImagePreprocessing, is_divided
from mlp_lightning.data.notes import note
from mlp_lightning.errors import UserError

# Values that are looked at together, in a check of a file that may not fit into memory.
CHECKED_VALUES = 2**22
LARGEST = np.float64(np.finfo(np.float32).max)
FINITE = f"must be finite, at most {LARGEST:.3g}"
# Numbers so many times as large as those of the training have another scale.
OTHER_SCALE = 10
# Of images whose pixels are fractions, against those with whole pixels.
LEAST_DIVISOR = 100


class Extent(NamedTuple):
    """The least and the largest number, and whether all are whole."""

    low: float
    high: float
    whole: bool

    @property
    def in_unit_range(self) -> bool:
        """Whether all are in [0, 1]."""
        return self.low >= 0 and self.high <= 1


def learned(train: Part, others: Sequence[Part]) -> ImagePreprocessing | ArrayPreprocessing:
    """How the samples of a training are read: images have pixels in [0, 1], everything else is an array.

    Args:
        train: samples ``(N, D)``, ``(N, H, W)`` or ``(N, H, W, C)``, N ≥ 1.
        others: the parts that are read likewise.
    """
    x = train.x
    shape = sample_shape(x)
    # Bytes that are only 0 and 1 are truth values.
    if x.dtype == np.uint8 and any(values.max() > 1 for _, values in _blocks(x)):
        return _image(shape, 255) if len(shape) > 1 else ArrayPreprocessing(shape[0], shape, 255)
    extent = _extent(x)
    if len(shape) > 1 and extent.in_unit_range:
        # Fractions are bytes that were divided already.
        divisor = 1 if extent.whole else 255
        if all(is_divided(part.x.dtype, divisor) or _extent(part.x).in_unit_range for part in others):
            return _image(shape, divisor)
    return ArrayPreprocessing(math.prod(shape), shape, 1, extent.low, extent.high)


def _image(shape: tuple[int, ...], divisor: int) -> ImagePreprocessing:
    return ImagePreprocessing(shape[0], shape[1], shape[2] if len(shape) == 3 else 1, divisor)


def check_values(part: Part, kind: ImagePreprocessing | ArrayPreprocessing) -> None:
    """Refuse a number that the training's scale does not allow; tell of a range that hardly fits.

    Raises:
        UserError: a number that is not finite in float32, no pixel, or of another scale; it is named.
    """
    x, divisor = part.x, kind.divisor
    pixels = isinstance(kind, ImagePreprocessing) or divisor == 255
    whole_only = x.dtype.kind in "iu"
    if whole_only and is_divided(x.dtype, divisor):
        _refuse_outside(part, 0, 255, "must be from 0 to 255, as the bytes of the training")
    elif pixels:
        allowed = "must be in [0, 1]"
        if divisor == 1:
            allowed += ", as in the training"
        else:
            allowed += ", or a byte from 0 to 255" if divisor is None else ", or a whole number's type from 0 to 255"
        _refuse_outside(part, 0, 1, allowed)
    else:
        _refuse_outside(part, -LARGEST, LARGEST, FINITE)
        assert isinstance(kind, ArrayPreprocessing)
        if kind.low is not None and kind.high is not None:
            _compare(part, Extent(kind.low, kind.high, whole=False), is_image=len(kind.shape) > 1)


def sample_shape(x: NDArray) -> tuple[int, ...]:
    """(D,), (H, W) or (H, W, 3): one channel is none."""
    return x.shape[1:3] if x.ndim == 4 and x.shape[3] == 1 else x.shape[1:]


def _compare(part: Part, trained: Extent, *, is_image: bool) -> None:
    """Refuse whole numbers, and tell of others, whose scale cannot be the training's."""
    small = max(-trained.low, trained.high) <= 1
    if small and part.x.dtype.kind in "iu":
        said = f"but the numbers of the training were from {trained.low:g} to {trained.high:g}: divide these likewise"
        _refuse_outside(part, -LARGEST, OTHER_SCALE, said)
        return
    found = _extent(part.x)
    if trained.low >= 0 and (is_image or trained.high <= 255):
        # Pixels that were divided, where the training's were not; but not a black image.
        divided = (
            found.low >= 0 and found.high * LEAST_DIVISOR <= trained.high and not (found.high <= 1 and found.whole)
        )
    else:
        divided = False
    if divided or (small and found.high > OTHER_SCALE):
        note(
            f"{part.x_name}: its numbers reach {found.high:g}, but those of the training {trained.high:g}; "
            "is their scale the same?"
        )


def _refuse_outside(part: Part, low: float, high: float, allowed: str) -> None:
    if part.x.dtype.kind == "b" or (part.x.dtype == np.uint8 and low <= 0 and high >= 255):
        return
    for first, values in _blocks(part.x):
        # NaN is not >= either.
        wrong = ~((values >= low) & (values <= high))
        if wrong.any():
            row, column = (int(k) for k in np.argwhere(wrong)[0])
            got = values[row, column]
            if not abs(got) <= LARGEST:
                allowed = FINITE
            raise UserError(f"{part.x_name}, row {first + row}, column {column}: got {got}, {allowed}")


def _extent(x: NDArray) -> Extent:
    low, high, whole = math.inf, -math.inf, True
    for _, values in _blocks(x):
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        if x.dtype.kind == "f":
            whole = whole and bool((values == np.floor(values)).all())
    return Extent(low, high, whole)


def _blocks(x: NDArray) -> Iterator[tuple[int, NDArray]]:
    """Rows ``(B, D)`` and the index of the first of them."""
    width = math.prod(x.shape[1:])
    rows = max(1, CHECKED_VALUES // width)
    for first in range(0, len(x), rows):
        yield first, x[first : first + rows].reshape(-1, width)
