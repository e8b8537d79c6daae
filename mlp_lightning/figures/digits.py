"""Digits with their labels, with what the network says of them, and those that it got wrong."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea
from numpy.typing import ArrayLike, NDArray

from mlp_lightning.figures.style import INK, MUTED, RIGHT, WRONG, message_figure, new_figure, text_width
from mlp_lightning.figures.tiles import tile
from mlp_lightning.printable import printable

MOST_MISTAKES = 25
CAPTION_SIZE = 10
# In inches: a tile with its gap is as wide as the longest caption, within these bounds.
NARROWEST, WIDEST = 1.3, 2.0
CAPTION_HEIGHT = 0.28
# Space between the words of a caption against the size of its letters.
SPACE = 0.3


def digits_figure(images: ArrayLike, labels: ArrayLike, class_names: Sequence[str], title: str) -> Figure:
    """A grid of images, each captioned with the name of its class; 20 images make 4 rows of 5.

    Args:
        images: (N, H, W) grey or (N, H, W, 3) colour, in [0, 1]; values outside are clipped.
        labels: (N,) integers in 0..K−1.
        class_names: K names.
        title: the title.

    Raises:
        ValueError: a wrong shape, or a label outside 0..K−1.
    """
    pictures = _checked_images(images)
    names = _names(labels, class_names, "labels", len(pictures))
    return _grid(pictures, [[(name, INK)] for name in names], title, "no digits")


def mistakes_figure(
    images: ArrayLike,
    targets: ArrayLike,
    predictions: ArrayLike,
    confidences: ArrayLike,
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """The up to 25 most confident mistakes, the worst first, each captioned "target → prediction (confidence)".

    Args:
        images: (N, H, W) grey or (N, H, W, 3) colour, in [0, 1]; right ones may be among them.
        targets: (N,) integers in 0..K−1.
        predictions: (N,) integers in 0..K−1.
        confidences: (N,) probabilities of the predictions, in [0, 1].
        class_names: K names.
        title: the title.

    Raises:
        ValueError: a wrong shape, or a class outside 0..K−1.
    """
    pictures = _checked_images(images)
    rights = _names(targets, class_names, "targets", len(pictures))
    wrongs = _names(predictions, class_names, "predictions", len(pictures))
    certainty = np.asarray(confidences)
    if certainty.shape != (len(pictures),):
        raise ValueError(f"confidences must have the shape ({len(pictures)},), got {certainty.shape}")

    mistakes = np.flatnonzero(np.asarray(targets) != np.asarray(predictions))
    worst = mistakes[np.argsort(-certainty[mistakes], kind="stable")][:MOST_MISTAKES]
    captions = [
        [(rights[i], RIGHT), ("→", MUTED), (wrongs[i], WRONG), (f"({100 * certainty[i]:.1f} %)", MUTED)] for i in worst
    ]
    return _grid(pictures[worst], captions, title, "no mistakes")


def predictions_figure(
    images: ArrayLike,
    predictions: Sequence[str],
    probabilities: ArrayLike,
    labels: Sequence[str | None],
    title: str,
) -> Figure:
    """A grid of images, each captioned with its predicted class and the probability of it.

    Args:
        images: (N, H, W) grey or (N, H, W, 3) colour, in [0, 1].
        predictions: N names of classes.
        probabilities: (N,) in [0, 1].
        labels: N names of the true classes, which colour the captions; None where one is not known.
        title: the title.

    Raises:
        ValueError: a wrong shape.
    """
    pictures = _checked_images(images)
    shares = np.asarray(probabilities)
    if not len(pictures) == len(predictions) == len(labels) or shares.shape != (len(pictures),):
        raise ValueError(
            f"there must be a prediction, a probability and a label for each of {len(pictures)} images, "
            f"got {len(predictions)}, {shares.shape} and {len(labels)}"
        )
    captions = []
    for prediction, share, label in zip(predictions, shares, labels, strict=True):
        colour = INK if label is None else RIGHT if label == prediction else WRONG
        captions.append([(prediction, colour), (f"{100 * share:.1f} %", MUTED)])
    return _grid(pictures, captions, title, "no pictures")


def _grid(pictures: NDArray, captions: list[list[tuple[str, str]]], title: str, nothing: str) -> Figure:
    """Tile ``pictures``, each over its caption of coloured words."""
    if not len(pictures):
        return message_figure(title, nothing)
    count, height, width = pictures.shape[:3]
    columns = math.ceil(math.sqrt(count))
    longest = max(map(_caption_width, captions))
    tile_width = min(WIDEST, max(NARROWEST, longest))
    fontsize = CAPTION_SIZE * min(1.0, tile_width / longest)
    gap = math.ceil(height * CAPTION_HEIGHT / tile_width), max(1, width // 14)
    sheet = tile(pictures, columns, gap, fill=1.0)

    inches = tile_width / (width + gap[1])
    figure, axes = new_figure(max(5, sheet.shape[1] * inches + 0.2), sheet.shape[0] * inches + 0.6, title)
    axes.set_axis_off()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for i, caption in enumerate(captions):
        row, column = divmod(i, columns)
        x, y = column * (width + gap[1]) + width / 2, row * (height + gap[0]) + height
        _write(axes, caption, (x, y), fontsize)
    return figure


def _caption_width(caption: list[tuple[str, str]]) -> float:
    """In inches, at full size, with a margin on both sides."""
    space = SPACE * CAPTION_SIZE / 72
    return sum(text_width(word, CAPTION_SIZE) + space for word, _ in caption) + space


def _write(axes: Axes, caption: list[tuple[str, str]], below: tuple[float, float], fontsize: float) -> None:
    words: list[Artist] = [
        TextArea(word, textprops={"color": colour, "fontsize": fontsize, "parse_math": False})
        for word, colour in caption
    ]
    line = HPacker(children=words, pad=0, sep=SPACE * fontsize)
    axes.add_artist(AnnotationBbox(line, below, box_alignment=(0.5, 1.1), frameon=False, pad=0))


def _checked_images(images: ArrayLike) -> NDArray[np.floating]:
    pictures = np.asarray(images)
    if pictures.ndim != 3 and not (pictures.ndim == 4 and pictures.shape[3] == 3):
        raise ValueError(f"images must have the shape (N, H, W) or (N, H, W, 3), got {pictures.shape}")
    if not np.issubdtype(pictures.dtype, np.floating):
        raise ValueError(f"images must be floating-point numbers in [0, 1], got {pictures.dtype}")
    return pictures.clip(0, 1)


def _names(labels: ArrayLike, class_names: Sequence[str], argument: str, count: int) -> list[str]:
    classes = np.asarray(labels)
    if classes.shape != (count,):
        raise ValueError(f"{argument} must have the shape ({count},), one for each image, got {classes.shape}")
    if count and not 0 <= classes.min() <= classes.max() < len(class_names):
        raise ValueError(f"{argument} must lie in 0..{len(class_names) - 1}, got {classes.min()}..{classes.max()}")
    return [printable(class_names[label]) for label in classes]
