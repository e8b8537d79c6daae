"""Any picture of one digit or letter as MNIST would show it: light on black, in a 20 × 20 box, centred in 28 × 28.

MNIST's images were made so: each digit was scaled into a box of 20 × 20 pixels, its aspect ratio kept, with grey
levels from the antialias, and laid into 28 × 28 pixels with its centre of mass at their centre (LeCun et al. 1998,
section III.A). A photograph first needs its paper made black: the background, whatever is wider than a stroke, is
subtracted, and what remains is stretched so that noise becomes 0 and ink 1.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Invert = Literal["auto", "always", "never"]
Pixels = NDArray[np.float32]

SIDE = 28
BOX = 20
# A picture is worked on at this many pixels a side at most, its background at that many.
LARGEST = 200
LARGEST_BACKGROUND = 100
# A digit below this share of the picture is looked at again, nearer.
SMALL = 0.5
# What is wider than this share of the picture is background and not stroke.
WIDEST_STROKE = 0.3
# Strokes of MNIST are about this wide, in pixels of the box; thinner ones would fade as they are scaled down.
THINNEST = 2.0
# Least contrast of ink, of 1, and least share of the largest blot that a further one must have to be no dust.
LEAST_CONTRAST = 0.08
DUST = 0.04
# Where the soft edge of a large digit ends, of 1.
EDGE = 0.3


def mnist_picture(grey: Pixels, *, invert: Invert = "auto", name: str = "the picture") -> Pixels:
    """The digit in a grey picture, (28, 28) in [0, 1].

    Args:
        grey: (H, W) in [0, 1], of any size.
        invert: ``always`` where digits are dark on light, ``never`` where they are light on dark, ``auto`` to see
            which: whether the darkest or the lightest parts differ more from the rim.
        name: What an error calls the picture.

    Raises:
        UserError: nothing stands out from the background.
    """
    if invert == "always" or (invert == "auto" and _dark_on_light(_at_most(grey, LARGEST))):
        grey = 1 - grey
    small = _at_most(grey, LARGEST)
    ink = _without_dust(_ink(small, name))
    box = _extent(ink, 0)
    scale = max(grey.shape) / max(small.shape)
    if scale > 1 and max(side.stop - side.start for side in box) < SMALL * max(small.shape):
        # Once more, nearer: little of a small digit was left at that size.
        margin = max(side.stop - side.start for side in box) / 2
        near = [slice(max(0, int((side.start - margin) * scale)), int((side.stop + margin) * scale)) for side in box]
        ink = _without_dust(_ink(_at_most(grey[near[0], near[1]], LARGEST), name))
        box = _extent(ink, 0)
    ink = ink[box]
    if max(ink.shape) > BOX:
        # In a digit larger than the box a soft edge is unsharpness, not a pixel that is covered in part.
        ink = ink[_extent(ink, EDGE)]
    return _centred(_in_box(ink))


def _extent(ink: Pixels, least: float) -> tuple[slice, slice]:
    """Rows and columns from the first to the last that have more than ``least``."""
    rows, columns = (np.flatnonzero((ink > least).any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _dark_on_light(grey: Pixels) -> bool:
    """Whether the darkest part differs more from the background than the lightest, by the plane through the rim."""
    smooth = _blur(grey, max(grey.shape) / 100)
    height, width = grey.shape
    row, column = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    thickness = max(1, min(height, width) // 20)
    rim = np.ones(grey.shape, dtype=bool)
    rim[thickness:-thickness, thickness:-thickness] = False
    plane = np.stack([np.ones_like(row), row, column], axis=2)
    slopes, *_ = np.linalg.lstsq(plane[rim], smooth[rim], rcond=None)
    difference = smooth - plane @ slopes
    return bool(-difference.min() > difference.max())


def _ink(light: Pixels, name: str) -> Pixels:
    """0 where a picture, light on dark, shows background, 1 where it shows ink; raises UserError if nothing does."""
    ink = _blur(light, max(light.shape) / 260)
    ink = ink - _background(ink)
    if ink.max() < LEAST_CONTRAST:
        raise UserError(f"{name}: nothing stands out from the background")
    # Not a threshold from the histogram (Otsu 1979): a small digit on a large page is too little ink to show in it.
    half = float(ink.max()) / 2
    below, above = ink[ink <= half], ink[ink > half]
    middle = float(np.median(below))
    # 1.4826 median deviations are one standard deviation of normal noise.
    floor = min(middle + 3 * 1.4826 * float(np.median(np.abs(below - middle))), half)
    full = float(np.percentile(above, 75))
    return ((ink - floor) / (full - floor)).clip(0, 1)


def _background(light: Pixels) -> Pixels:
    """The background's level at each pixel: a minimum, then a maximum, over windows wider than a stroke."""
    import torch

    small = torch.tensor(_at_most(light, LARGEST_BACKGROUND))
    reach = max(1, round(WIDEST_STROKE * max(small.shape) / 2))
    opened = _maximum(-_maximum(-small, reach), reach)
    return _scaled(_blur(opened.numpy(), reach / 2), *light.shape)


def _without_dust(ink: Pixels) -> Pixels:
    """``ink`` without the blots that are small beside the largest."""
    import torch

    step = -(-max(ink.shape) // LARGEST_BACKGROUND)
    seen = torch.tensor(ink)[None] > 0.2
    seen = torch.nn.functional.max_pool2d(seen.float(), step, ceil_mode=True)[0] > 0
    # Every pixel of a blot takes the largest number in it, from neighbour to neighbour.
    blots = torch.arange(1.0, seen.numel() + 1).view(seen.shape) * seen
    while True:
        spread = _maximum(blots, 1) * seen
        if torch.equal(spread, blots):
            break
        blots = spread
    numbers, sizes = blots[seen].unique(return_counts=True)
    kept = torch.isin(blots, numbers[sizes >= DUST * sizes.max()])
    # A pixel more, so that soft edges stay.
    near = _maximum(kept.float(), 1).repeat_interleave(step, 0).repeat_interleave(step, 1).numpy()
    return ink * near[: ink.shape[0], : ink.shape[1]]


def _in_box(ink: Pixels) -> Pixels:
    """Scale ``ink`` so that its longer side is 20 pixels, with strokes thick enough to be seen."""
    import torch

    scale = BOX / max(ink.shape)
    mask = ink > 0.5
    # Half the outline's pixels a side is its length; a stroke's area is length times width.
    outline = sum(int(np.diff(np.pad(mask, 1).astype(np.int8), axis=axis).astype(bool).sum()) for axis in (0, 1))
    # A slanted outline steps 4/π times its length, on average.
    width = 2 * int(mask.sum()) / max(1.0, outline * np.pi / 4)
    reach = round((THINNEST / scale - width) / 2) if width * scale < THINNEST else 0
    if reach > 0:
        ink = _maximum(torch.from_numpy(np.pad(ink, reach)), reach).numpy()
        scale = BOX / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    box = _scaled(ink, height, width).clip(0, 1)
    return box / box.max()


def _centred(box: Pixels) -> Pixels:
    """Lay ``box`` into 28 × 28 pixels so that its centre of mass comes to lie at their centre, to a pixel."""
    picture = np.zeros((SIDE, SIDE), dtype=np.float32)
    height, width = box.shape
    corner = [
        int(np.clip(round(SIDE / 2 - float(box.sum(1 - axis) @ np.arange(side)) / float(box.sum())), 0, SIDE - side))
        for axis, side in enumerate(box.shape)
    ]
    picture[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = box
    return picture


def _maximum(image: "Tensor", reach: int) -> "Tensor":
    """The maximum over windows of 2 · reach + 1 pixels a side."""
    import torch

    size = 2 * reach + 1
    rows = torch.nn.functional.max_pool2d(image[None], (size, 1), 1, (reach, 0))
    return torch.nn.functional.max_pool2d(rows, (1, size), 1, (0, reach))[0]


def _blur(image: Pixels, sigma: float) -> Pixels:
    """A Gaussian of ``sigma`` pixels, whose rim is the image's own; none where it would change little."""
    reach = round(3 * sigma)
    if sigma < 0.5:
        return image
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(reach, reach) if axis == k else (0, 0) for k in (0, 1)], mode="edge")
        image = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis) @ weights.astype(np.float32)
    return image


def _at_most(image: Pixels, side: int) -> Pixels:
    """``image`` with at most ``side`` pixels a side, its aspect ratio kept."""
    scale = side / max(image.shape)
    return image if scale >= 1 else _scaled(image, *(max(1, round(length * scale)) for length in image.shape))


def _scaled(image: Pixels, height: int, width: int) -> Pixels:
    from PIL import Image

    from mlp_lightning.data.images.pictures import resized

    return np.asarray(resized(Image.fromarray(np.ascontiguousarray(image)), height, width), dtype=np.float32)
