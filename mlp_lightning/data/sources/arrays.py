"""The source ``arrays``: NumPy's files, held in memory or, where they are larger than the budget, read as needed."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mlp_lightning.data.array.files import ArrayFiles, Part
from mlp_lightning.data.array.labels import label_cells
from mlp_lightning.data.array.mapped import MappedRows, Rows, as_features
from mlp_lightning.data.array.scale import check_values, learned, sample_shape
from mlp_lightning.data.classes import check_labels, encoded, label_texts, names_of
from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.notes import note
from mlp_lightning.data.preprocessing import ArrayPreprocessing, ImagePreprocessing, TablePreprocessing
from mlp_lightning.data.sources.options import SourceOptions, existing
from mlp_lightning.data.sources.own import Split, Trained, set_apart
from mlp_lightning.data.sources.part_names import PartName
from mlp_lightning.data.tabular.cells import is_missing
from mlp_lightning.errors import UserError

ALLOWED_SHAPES = "(N, D), (N, H, W) or (N, H, W, 3)"


def load_arrays(options: SourceOptions, split: Split, trained: Trained | None, test_only: bool) -> Dataset:
    """Read ``x_train`` and ``y_train``, or ``x`` and ``y``, and the test and validation parts that are beside them.

    ``data.root`` is a .npz file, or a folder with a .npy file for each; ``data.test_path`` another one, with ``x_test``
    and ``y_test`` or ``x`` and ``y``. Without a test part a share of the samples is set apart. Samples are ``(N, D)``,
    ``(N, H, W)`` or ``(N, H, W, 3)``, labels ``(N,)`` or one-hot ``(N, K)``.

    Raises:
        UserError: a file or array that cannot be read or is not of such a shape, a value that is not finite or not of
            the training's scale, or labels that do not fit.
    """
    test = _test_part(options)
    validation = None
    if test_only:
        assert test is not None
        assert test.y is not None
        train = test._replace(x=test.x[:0], y=test.y[:0], path=None)
    else:
        train, validation, beside = _parts(options, has_test=test is not None)
        test = test or beside
    every = [part for part in (train, validation, test) if part is not None]
    for part in every[1:] if test_only else every:
        check_samples(part)
    kind = _kind(every) if trained is None else _known_kind(every, trained)
    for part in every:
        check_values(part, kind)
    labels = _labels(train)
    if trained is None:
        check_labels(labels, train.y_name)
    class_names = names_of(labels) if trained is None else trained.class_names
    x, y = _rows(train, kind, options), encoded(labels, class_names, lambda row: f"{train.y_name}, row {row}")
    test_rows = None
    if test is None:
        train_rows, test_rows = set_apart(y, options, trained)
        parts = (_taken(x, train_rows), y[train_rows], _taken(x, test_rows), y[test_rows])
    else:
        parts = (x, y, *_samples(test, kind, class_names, options))
    val_x, val_y = (None, None) if validation is None else _samples(validation, kind, class_names, options)
    image_shape = trained.image_shape if trained is not None else _image_shape(kind)
    return Dataset(*parts, image_shape, class_names, kind, val_x, val_y, test_rows)


def check_samples(part: Part) -> None:
    """Refuse samples that are no numbers or have no such shape.

    Raises:
        UserError: likewise.
    """
    x = part.x
    if x.dtype.kind not in "fiub":
        raise UserError(f"{part.x_name}: holds {x.dtype}, must be numbers")
    if x.ndim not in (2, 3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or math.prod(x.shape[1:]) == 0:
        raise UserError(f"{part.x_name}: has the shape {x.shape}, must be {ALLOWED_SHAPES}")
    if len(x) == 0:
        raise UserError(f"{part.x_name}: holds no samples")


def _test_part(options: SourceOptions) -> Part | None:
    if options.test_path is None:
        return None
    files = ArrayFiles(existing(options.test_path, "test_path"), options.budget)
    return files.read("test" if files.has("test") else None)[0]


def _parts(options: SourceOptions, *, has_test: bool) -> tuple[Part, Part | None, Part | None]:
    """Training, validation and test part of ``data.root``; the last is not read if there is another one."""
    files = ArrayFiles(existing(str(options.root), "root"), options.budget)
    if files.has("train") and files.has(None):
        raise UserError(f"{files.place}: has {files.held}; must have x_train or x, and not both")
    train: PartName | None = None if files.has(None) else "train"
    beside: list[PartName] = [part for part in ("val", "test") if files.has(part)]
    for each, name in files.names.items():
        if each.role == "y" and files.has(train) and not files.has(each.part):
            raise UserError(f"{files.place}: has {name}, but not its samples; it has {files.held}")
    if has_test and "test" in beside:
        beside.remove("test")
        note(f"{files.place}: its test samples are left out, since data.test_path is the test set")
    first, *rest = files.read(train, *beside)
    if files.others:
        note(f"{files.place}: left out, since it is neither samples nor labels: {', '.join(files.others)}")
    found = dict(zip(beside, rest, strict=True))
    return first, found.get("val"), found.get("test")


def _labels(part: Part) -> list[str]:
    assert part.y is not None
    cells = label_cells(part.y, part.y_name)
    if len(part.x) != len(cells):
        raise UserError(
            f"{part.x_name}: holds {len(part.x)} samples, but {part.y_name} {len(cells)} labels, must be as many"
        )
    for row, cell in enumerate(cells):
        if isinstance(cell, float) and not math.isfinite(cell):
            raise UserError(f"{part.y_name}, row {row}: the label is {cell}, must be finite")
        if is_missing(cell):
            raise UserError(f"{part.y_name}, row {row}: the label is missing")
    return label_texts(cells)


def _samples(
    part: Part, kind: ImagePreprocessing | ArrayPreprocessing, class_names: tuple[str, ...], options: SourceOptions
) -> tuple[Rows, Tensor]:
    return _rows(part, kind, options), encoded(_labels(part), class_names, lambda row: f"{part.y_name}, row {row}")


def _kind(parts: Sequence[Part]) -> ImagePreprocessing | ArrayPreprocessing:
    """What the training samples teach."""
    train, *others = parts
    for part in others:
        if sample_shape(part.x) != sample_shape(train.x):
            raise UserError(
                f"{part.x_name}: samples of the shape {part.x.shape[1:]}, must be {train.x.shape[1:]} as in "
                f"{train.x_name}"
            )
    return learned(train, others)


def _known_kind(parts: Sequence[Part], trained: Trained) -> ImagePreprocessing | ArrayPreprocessing:
    known = trained.preprocessing
    if isinstance(known, TablePreprocessing):
        raise UserError(f"data.dataset: got arrays, but the checkpoint was trained on another kind, {known.kind}")
    for part in parts:
        if not known.takes(sample_shape(part.x)):
            raise UserError(
                f"{part.x_name}: samples of the shape {part.x.shape[1:]}, but the checkpoint's model takes "
                f"{known.shapes_said}"
            )
    return known


def _image_shape(kind: ImagePreprocessing | ArrayPreprocessing) -> tuple[int, ...]:
    if isinstance(kind, ImagePreprocessing):
        return kind.image_shape
    return kind.shape if len(kind.shape) > 1 else ()


def _rows(part: Part, kind: ImagePreprocessing | ArrayPreprocessing, options: SourceOptions) -> Rows:
    """In memory, unless they would take more than the budget there."""
    if part.path is not None and 4.0 * part.x.size > options.budget:
        return MappedRows(part.path, options.budget, kind.divisor)
    return torch.from_numpy(as_features(part.x, kind.divisor))


def _taken(x: Rows, rows: Tensor) -> Rows:
    return x.subset(rows) if isinstance(x, MappedRows) else x[rows]
