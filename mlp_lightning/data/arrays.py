"""The source ``arrays``: NumPy's files, held in memory or, where they are larger than the budget, read as needed."""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlp_lightning.data.classes import encoded, label_text, names_of
from mlp_lightning.data.mapped import MappedRows, Rows, as_features
from mlp_lightning.data.own import Split, Trained
from mlp_lightning.data.preprocessing import ArrayPreprocessing, ImagePreprocessing, Preprocessing
from mlp_lightning.data.source_options import SourceOptions, existing
from mlp_lightning.data.sources import Dataset
from mlp_lightning.data.splits import stratified
from mlp_lightning.errors import UserError

NAMES = ("x_train", "y_train", "x_test", "y_test", "x", "y")
# Values that are looked at together, in a check of a file that may not fit into memory.
CHECKED_VALUES = 2**22
# What NumPy raises for a file that is cut off, or is no array, or holds Python objects, or whose header is nonsense.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    SyntaxError,
    NotImplementedError,
    RuntimeError,
    OSError,
    EOFError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# Characters of what a library says of a file: zipfile quotes whatever stands where a name should be.
LONGEST_REASON = 200
LARGEST = np.float64(np.finfo(np.float32).max)


class _Part(NamedTuple):
    """Samples and labels as they are in files, and what errors call them."""

    x: NDArray
    y: NDArray
    x_name: str
    y_name: str
    path: Path | None  # of x, if it is a .npy file


def load_arrays(options: SourceOptions, split: Split, trained: Trained | None, test_only: bool) -> Dataset:
    """Read ``x_train``, ``y_train``, ``x_test`` and ``y_test``, or ``x`` and ``y``, of which a share is set apart.

    ``data.root`` is a .npz file, or a folder with a .npy file for each; ``data.test_path`` another one, with ``x`` and
    ``y`` or ``x_test`` and ``y_test``. Samples are ``(N, D)``, ``(N, H, W)`` or ``(N, H, W, 3)``, labels ``(N,)``.

    Raises:
        UserError: a file or array that cannot be read or is not of such a shape, a value that is not finite, or labels
            that do not fit.
    """
    test = _test_part(options)
    if test_only:
        assert test is not None
        train = test._replace(x=test.x[:0], y=test.y[:0], path=None)
    else:
        train, beside = _parts(existing(str(options.root), "root"), options)
        test = test or beside
    every = [part for part in (train, test) if part is not None]
    for part in every[1:] if test_only else every:
        _check(part)
    if test is not None and test.x.shape[1:] != train.x.shape[1:]:
        raise UserError(
            f"{test.x_name}: samples of the shape {test.x.shape[1:]}, must be {train.x.shape[1:]} as in {train.x_name}"
        )
    image_shape, preprocessing = _kind(every) if trained is None else _known_kind(train, trained)
    labels = [label_text(label) for label in train.y.tolist()]
    class_names = names_of(labels) if trained is None else trained.class_names
    x, y = _rows(train, options), encoded(labels, class_names, lambda row: f"{train.y_name}, row {row}")
    if test is None:
        train_rows, test_rows = stratified(y, options.test_size, options.test_seed)
        parts = (_taken(x, train_rows), y[train_rows], _taken(x, test_rows), y[test_rows])
    else:
        test_labels = [label_text(label) for label in test.y.tolist()]
        test_name = test.y_name
        parts = (x, y, _rows(test, options), encoded(test_labels, class_names, lambda row: f"{test_name}, row {row}"))
    return Dataset(*parts, image_shape, class_names, preprocessing)


def _test_part(options: SourceOptions) -> _Part | None:
    if options.test_path is None:
        return None
    place = existing(options.test_path, "test_path")
    arrays = _read(place, options)
    names = ("x_test", "y_test") if "x_test" in arrays else ("x", "y")
    return _part(arrays, *names, place)


def _parts(place: Path, options: SourceOptions) -> tuple[_Part, _Part | None]:
    arrays = _read(place, options)
    if "x_train" in arrays or "x" not in arrays:
        test = _part(arrays, "x_test", "y_test", place) if "x_test" in arrays else None
        return _part(arrays, "x_train", "y_train", place), test
    return _part(arrays, "x", "y", place), None


def _part(arrays: Mapping[str, NDArray], x: str, y: str, place: Path) -> _Part:
    for name in (x, y):
        if name not in arrays:
            held = ", ".join(arrays) or "none of them"
            raise UserError(
                f"{place}: has no array {name}; must have x_train and y_train (and x_test and y_test), or x and y; "
                f"it has {held}"
            )
    x_name, y_name = ((f"{place / name}.npy" if place.is_dir() else f"{place}, {name}") for name in (x, y))
    return _Part(arrays[x], arrays[y], x_name, y_name, place / f"{x}.npy" if place.is_dir() else None)


def _read(place: Path, options: SourceOptions) -> dict[str, NDArray]:
    if place.is_dir():
        files = [(name, place / f"{name}.npy") for name in NAMES]
        return {name: _mapped(file) for name, file in files if file.is_file()}
    arrays = {}
    try:
        # NumPy leaves a file open that it opens itself and cannot read.
        with place.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UserError(f"data.root: got {place}, must be a .npz file or a folder of .npy files")
            for name in (name for name in archive.files if name in NAMES):
                try:
                    arrays[name] = archive[name]
                    if not isinstance(arrays[name], np.ndarray):
                        raise ValueError("it is no array")
                except UNREADABLE as error:
                    raise _unreadable(f"{place}, {name}", error) from error
    except UserError:
        raise
    except MemoryError as error:
        raise _too_large(place) from error
    except UNREADABLE as error:
        raise _unreadable(str(place), error) from error
    if sum(4.0 * array.size for array in arrays.values()) > options.budget:
        raise _too_large(place, options.budget)
    return arrays


def _mapped(file: Path) -> NDArray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive")
        return array
    except UNREADABLE as error:
        raise _unreadable(str(file), error) from error


def _unreadable(what: str, error: BaseException) -> UserError:
    if "pickle" in str(error).lower():
        return UserError(
            f"{what}: holds Python objects or is no NumPy file; must hold numbers alone, nothing else is read"
        )
    reason = " ".join(str(error).split()) or "it is cut off"
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]} …"
    return UserError(f"{what}: cannot be read as a NumPy file ({reason})")


def _too_large(place: Path, budget: float | None = None) -> UserError:
    limit = "the memory" if budget is None else f"data.memory_budget, {budget / 1e6:,.0f} MB"
    return UserError(
        f"data.root: {place} is larger than {limit}; a folder with x_train.npy, y_train.npy, … is read as it is needed"
    )


def _check(part: _Part) -> None:
    x, y = part.x, part.y
    if x.dtype.kind not in "fiub":
        raise UserError(f"{part.x_name}: holds {x.dtype}, must be numbers")
    if x.ndim not in (2, 3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or math.prod(x.shape[1:]) == 0:
        raise UserError(f"{part.x_name}: has the shape {x.shape}, must be (N, D), (N, H, W) or (N, H, W, 3)")
    if y.ndim != 1 or y.dtype.kind not in "iubUf":
        raise UserError(
            f"{part.y_name}: has the shape {y.shape} and the type {y.dtype}, must be one number or text for each sample"
        )
    if len(x) == 0:
        raise UserError(f"{part.x_name}: holds no samples")
    if len(x) != len(y):
        raise UserError(f"{part.x_name}: holds {len(x)} samples, but {part.y_name} {len(y)} labels, must be as many")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int((~np.isfinite(y)).argmax())
        raise UserError(f"{part.y_name}, row {row}: the label is {y[row]}, must be finite")
    if x.dtype.kind == "f":
        for first, values in _blocks(x):
            # The network's numbers are float32: larger ones would be infinite. NaN is not <= either.
            wrong = ~(np.abs(values) <= LARGEST)
            if wrong.any():
                row, column = (int(k) for k in np.argwhere(wrong)[0])
                value = values[row, column]
                raise UserError(
                    f"{part.x_name}, row {first + row}, column {column}: got {value}, "
                    f"must be finite, at most {LARGEST:.3g}"
                )


def _blocks(x: NDArray) -> Iterator[tuple[int, NDArray]]:
    """Rows ``(B, D)`` and the index of the first of them."""
    width = math.prod(x.shape[1:])
    rows = max(1, CHECKED_VALUES // width)
    for first in range(0, len(x), rows):
        yield first, x[first : first + rows].reshape(-1, width)


def _kind(parts: list[_Part]) -> tuple[tuple[int, ...], Preprocessing]:
    """Shape of an image, and preprocessing: pixels that are not in [0, 1] are taken as numbers."""
    x = parts[0].x
    if x.ndim == 2:
        return (), ArrayPreprocessing(x.shape[1])
    image = ImagePreprocessing(x.shape[1], x.shape[2], x.shape[3] if x.ndim == 4 else 1)
    if all(_in_unit_range(part.x) for part in parts):
        return image.image_shape, image
    return image.image_shape, ArrayPreprocessing(image.n_features)


def _in_unit_range(x: NDArray) -> bool:
    return x.dtype == np.uint8 or all(values.min() >= 0 and values.max() <= 1 for _, values in _blocks(x))


def _known_kind(part: _Part, trained: Trained) -> tuple[tuple[int, ...], Preprocessing]:
    known = trained.preprocessing
    if known.kind == "table":
        raise UserError(f"data.dataset: got arrays, but the checkpoint was trained on another kind, {known.kind}")
    width = math.prod(part.x.shape[1:])
    if width != known.n_features:
        raise UserError(f"{part.x_name}: {width} numbers a sample, but the checkpoint's model takes {known.n_features}")
    return trained.image_shape, known


def _rows(part: _Part, options: SourceOptions) -> Rows:
    """In memory, unless they would take more than the budget there."""
    if part.path is not None and 4.0 * part.x.size > options.budget:
        return MappedRows(part.path, options.budget)
    return torch.from_numpy(as_features(part.x))


def _taken(x: Rows, rows: Tensor) -> Rows:
    return x.subset(rows) if isinstance(x, MappedRows) else x[rows]
