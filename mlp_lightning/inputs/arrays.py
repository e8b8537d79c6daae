"""Rows of arrays, as they are: pixels of images, or whatever the model was trained on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlp_lightning.data.arrays import UNREADABLE
from mlp_lightning.data.mapped import as_features
from mlp_lightning.data.preprocessing import ImagePreprocessing, TablePreprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.inputs.part import Part, refused, rows_at_once, true_label
from mlp_lightning.model import Model


def array_file_parts(model: Model, path: Path) -> Iterator[Part]:
    """A .npy file, of which no more is held than a part; or a .npz file, with labels if it has some.

    Raises:
        UserError: the file cannot be read, or as ``array_parts``.
    """
    try:
        if path.suffix.lower() == ".npy":
            x, y = _array_of(np.load(path, mmap_mode="r", allow_pickle=False), path)
        else:
            # A file of our own, since numpy leaves its open where it is damaged.
            with path.open("rb") as file:
                x, y = _array_of(np.load(file, allow_pickle=False), path)
    except (*UNREADABLE, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as an array of numbers ({' '.join(str(error).split())})") from error
    yield from array_parts(model, x, str(path), y)


def array_parts(model: Model, array: NDArray, file: str = "", labels: NDArray | None = None) -> Iterator[Part]:
    """An array ``(N, D)`` or, for images, ``(N, H, W[, 3])``, or a single sample of it.

    Args:
        model: what the rows are for.
        array: pixels are fractions from 0 to 1, or bytes.
        file: that it comes from; empty for none.
        labels: the true classes ``(N,)``, if they are known.

    Raises:
        UserError: another shape, no numbers, a pixel that is none, or a label that is no class.
    """
    name, shape = file or "the array", model.image_shape
    if isinstance(model.preprocessing, TablePreprocessing):
        raise refused(model, name)
    known = [(model.preprocessing.n_features,), *([shape] if shape else [])]
    if array.shape in known:
        array = array[np.newaxis]
    if array.ndim == 0 or array.shape[1:] not in known:
        allowed = " or ".join(f"(N, {', '.join(str(length) for length in each)})" for each in known)
        raise UserError(f"{name}: has the shape {array.shape}, must be {allowed} for {model.path}")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name}: holds {array.dtype}, must be numbers")
    if len(array) == 0:
        raise UserError(f"{name}: has no rows")
    if labels is not None and labels.shape != (len(array),):
        raise UserError(f"{name}: y has the shape {labels.shape}, must be ({len(array)},)")
    for start in range(0, len(array), rows_at_once(model)):
        x = as_features(array[start : start + rows_at_once(model)])
        _check(model, x, start, name)
        rows = range(start, start + len(x))
        classes = [
            None if labels is None else true_label(model, labels[row], f"{name}, row {row} of y") for row in rows
        ]
        yield Part(torch.from_numpy(np.ascontiguousarray(x)), [file] * len(x), [*rows], classes)


def _check(model: Model, x: NDArray[np.float32], first_row: int, name: str) -> None:
    is_image = isinstance(model.preprocessing, ImagePreprocessing)
    fits = (x >= 0) & (x <= 1) if is_image else np.isfinite(x)
    if not fits.all():
        row, column = (int(index) for index in np.argwhere(~fits)[0])
        allowed = "in [0, 1], or a byte from 0 to 255" if is_image else "finite"
        raise UserError(f"{name}, row {first_row + row}, column {column}: got {x[row, column]:g}, must be {allowed}")


def _array_of(held: Any, path: Path) -> tuple[NDArray, NDArray | None]:
    """Samples and labels: ``x`` and ``y`` of a .npz file, or ``x_test`` and ``y_test``, or its only array."""
    if isinstance(held, np.ndarray):
        return held, None
    for x, y in (("x", "y"), ("x_test", "y_test")):
        if x in held:
            return held[x], held[y] if y in held.files else None
    if len(held.files) != 1:
        raise UserError(
            f"{path}: has the arrays {', '.join(held.files) or 'none'}, must have x or x_test, or one alone"
        )
    return held[held.files[0]], None
