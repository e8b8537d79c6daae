"""How images and arrays become rows of numbers: shapes, and the scale that the training samples had."""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike


@dataclass(frozen=True)
class ImagePreprocessing:
    """Pixels in [0, 1] in the order height, width, channel.

    Args:
        height: in pixels.
        width: in pixels.
        channels: 1 for grey, 3 for red, green and blue.
        divisor: of arrays whose type is of whole numbers, 255 or 1, as ``is_divided`` takes it.
    """

    height: int
    width: int
    channels: int = 1
    divisor: int | None = 255
    kind: ClassVar[str] = "image"

    @property
    def n_features(self) -> int:
        """D."""
        return self.height * self.width * self.channels

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width) if grey, (height, width, 3) if not."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array's sample of that shape is one."""
        return shape in ((self.n_features,), self.image_shape)

    @property
    def shapes_said(self) -> str:
        """The shapes of arrays that it takes, in words."""
        return _said((self.n_features,), self.image_shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class ArrayPreprocessing:
    """D numbers as they are, or bytes divided by 255.

    Args:
        n_features: D.
        shape: of a sample in the training, (D,), (H, W) or (H, W, 3); () if it is not known.
        divisor: of arrays whose type is of whole numbers, 255 or 1, as ``is_divided`` takes it.
        low: the least number of the training, before it was divided; None if it is not known.
        high: the largest one.
    """

    n_features: int
    shape: tuple[int, ...] = ()
    divisor: int | None = None
    low: float | None = None
    high: float | None = None
    kind: ClassVar[str] = "array"

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array's sample of that shape is one: of the training's shape, or as many numbers in a row."""
        # Numbers in a row may be given as an image, but not those of one image as those of another.
        any_shape = len(self.shape) < 2
        return shape in ((self.n_features,), self.shape) or (any_shape and math.prod(shape) == self.n_features)

    @property
    def shapes_said(self) -> str:
        """The shapes of arrays that it takes, in words."""
        return _said((self.n_features,), self.shape if len(self.shape) > 1 else ())

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, **asdict(self), "shape": list(self.shape)}


def is_divided(dtype: DTypeLike, divisor: int | None) -> bool:
    """Whether numbers of a type are divided by 255.

    Args:
        dtype: fractions and truth values are never divided.
        divisor: 255 divides all whole numbers, 1 none; None divides bytes (uint8) alone, as checkpoints mean it that
            do not say what their training did.
    """
    return np.dtype(dtype).kind in "iu" and (divisor == 255 or (divisor is None and dtype == np.uint8))


def _said(*shapes: tuple[int, ...]) -> str:
    return " or ".join(f"(N, {', '.join(map(str, shape))})" for shape in shapes if shape)
