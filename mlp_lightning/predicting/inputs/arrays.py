"""Rows of arrays, by the scale and the shape that the training's had."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlp_lightning.data.array import files as array_files
from mlp_lightning.data.array.files import ArrayFiles, mapped
from mlp_lightning.data.array.labels import label_cells
from mlp_lightning.data.array.mapped import as_features
from mlp_lightning.data.array.scale import check_values, sample_shape
from mlp_lightning.data.notes import note
from mlp_lightning.data.preprocessing import TablePreprocessing
from mlp_lightning.data.sources.options import SourceOptions
from mlp_lightning.data.sources.part_names import PartName
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.inputs.part import Part, refused, rows_at_once, true_label
from mlp_lightning.predicting.model import Model

# Which samples of a file are predicted: those that the training has not seen first.
ORDER: tuple[PartName | None, ...] = ("test", None, "val", "train")


def array_file_parts(model: Model, path: Path) -> Iterator[Part]:
    """A .npy file, of which no more is held than a part; or a .npz file or a folder of .npy files, with their labels.

    Raises:
        UserError: the file cannot be read, or as ``array_parts``.
    """
    if isinstance(model.preprocessing, TablePreprocessing):
        raise refused(model, str(path))
    if path.suffix.lower() == ".npy" and not path.is_dir():
        yield from array_parts(model, mapped(path), str(path))
        return
    files = ArrayFiles(path, SourceOptions().budget)
    held = [part for part in ORDER if files.has(part)]
    if not held:
        part = files.only()
    else:
        (part,) = files.read(held[0], labels=False)
        if len(held) > 1:
            others = f"{len(held) - 1} other {'parts are' if len(held) > 2 else 'part is'} left out"
            note(f"{path}: {part.x_name.removeprefix(str(path)).lstrip('/, ')} is predicted, {others}")
    yield from array_parts(model, part.x, str(path), part.y)


def array_parts(model: Model, array: NDArray, file: str = "", labels: NDArray | None = None) -> Iterator[Part]:
    """An array ``(N, D)`` or of the training's shape, ``(N, H, W[, C])``, or a single sample of it.

    Args:
        model: what the rows are for.
        array: numbers of the training's scale; pixels are fractions from 0 to 1, or bytes.
        file: that it comes from; empty for none.
        labels: the true classes ``(N,)`` or one-hot, if they are known.

    Raises:
        UserError: another shape, no numbers, a number of another scale, or a label that is no class.
    """
    name, kind = file or "the array", model.preprocessing
    if isinstance(kind, TablePreprocessing):
        raise refused(model, name)
    if array.ndim > 0 and not _takes_rows(kind, array) and kind.takes(sample_shape(array[np.newaxis])):
        array = array[np.newaxis]
    if not _takes_rows(kind, array):
        raise UserError(f"{name}: has the shape {array.shape}, must be {kind.shapes_said} for {model.path}")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name}: holds {array.dtype}, must be numbers")
    if np.ma.is_masked(array):
        raise UserError(f"{name}: has masked numbers, must have none")
    if len(array) == 0:
        raise UserError(f"{name}: has no rows")
    cells: list[Any] = [None] * len(array) if labels is None else label_cells(labels, f"{name}, y")
    if len(cells) != len(array):
        raise UserError(f"{name}: y has {len(cells)} labels, must have {len(array)}")
    check_values(array_files.Part(array, None, name, "", None), kind)
    for start in range(0, len(array), rows_at_once(model)):
        x = as_features(array[start : start + rows_at_once(model)], kind.divisor)
        rows = range(start, start + len(x))
        classes = [true_label(model, cells[row], f"{name}, row {row} of y") for row in rows]
        yield Part(torch.from_numpy(np.ascontiguousarray(x)), [file] * len(x), [*rows], classes)


def _takes_rows(kind: Any, array: NDArray) -> bool:
    return array.ndim > 1 and bool(kind.takes(sample_shape(array)))
