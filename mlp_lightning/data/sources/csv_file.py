"""The source ``csv``: a table with a header, one column of which is the class."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mlp_lightning.data.classes import check_labels, encoded, label_texts, names_of
from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.notes import note
from mlp_lightning.data.preprocessing import TablePreprocessing
from mlp_lightning.data.sources.options import SourceOptions, existing
from mlp_lightning.data.sources.own import Split, Trained, set_apart
from mlp_lightning.data.sources.part_names import PartName, part_of
from mlp_lightning.data.tabular.cells import Place, is_missing
from mlp_lightning.data.tabular.table_learning import column_of, learn_table
from mlp_lightning.data.tabular.tables import Table, read_table
from mlp_lightning.errors import UserError


def load_csv(options: SourceOptions, split: Split, trained: Trained | None, test_only: bool) -> Dataset:
    """Read the training and the test table.

    ``data.root`` is a file, or a folder with ``train.csv`` and perhaps ``val.csv`` and ``test.csv``; ``data.test_path``
    is another test table. Without a test table a share of the rows is set apart. The preprocessing is learned from what
    ``split`` leaves to train, or is a checkpoint's.

    Raises:
        UserError: a file, column or cell that cannot be read, or is not what the checkpoint's were.
    """
    preprocessing = None if trained is None else trained.preprocessing
    if preprocessing is not None and not isinstance(preprocessing, TablePreprocessing):
        raise UserError(f"data.dataset: got csv, but the checkpoint was trained on another kind, {preprocessing.kind}")
    train_path, val_path, test_path = _paths(options, test_only)
    val = None if val_path is None else read_table(val_path)
    test = None if test_path is None else read_table(test_path)
    if test_only:
        assert test is not None
        train = test.take([])
    else:
        train = read_table(train_path)
    whole = train
    label = _label(train, options, preprocessing)
    train_labels = _labels(train, label)
    if trained is None:
        check_labels(train_labels, f"data.label: column {label!r} of {train.file}")
    class_names = names_of(train_labels) if trained is None else trained.class_names
    train_y = encoded(train_labels, class_names, Place(train.file, train.lines).line)
    test_rows = None
    if test is None:
        train_rows, test_rows = set_apart(train_y, options, trained)
        train, test = train.take(train_rows.tolist()), train.take(test_rows.tolist())
        train_y, test_y = train_y[train_rows], train_y[test_rows]
    else:
        test_y = _classes(test, label, class_names)
    val_y = None if val is None else _classes(val, label, class_names)
    if preprocessing is None:
        rows = split(len(train_y)) if val is None else torch.arange(len(train_y))
        preprocessing = learn_table(train.take(rows.tolist()), label, options, whole)
    # A test set that is part of the whole is told of with it.
    for table in {each.file: each for each in (val, test, whole) if each is not None and each.n_rows}.values():
        for line in preprocessing.guesses(table, table.file):
            note(f"{table.file}: {line}")
    train_x, test_x = (_rows(preprocessing, part) for part in (train, test))
    val_x = None if val is None else _rows(preprocessing, val)
    return Dataset(train_x, train_y, test_x, test_y, (), class_names, preprocessing, val_x, val_y, test_rows)


def table_parts(root: Path) -> dict[PartName, Path]:
    """The tables of a folder by the part that their names tell; a note names the others.

    Raises:
        UserError: there is none to train on, or two for one part.
    """
    parts: dict[PartName, Path] = {}
    others = []
    for file in sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv" and path.is_file()):
        part = part_of(file.stem)
        if part is None:
            others.append(file.name)
        elif part in parts:
            raise UserError(f"data.root: {root} has {parts[part].name} and {file.name}, must have one of them")
        else:
            parts[part] = file
    if "train" not in parts:
        raise UserError(f"data.root: got {root}, must be a CSV file or a folder with train.csv")
    if others:
        note(f"{root}: tables left out, since they are neither train, val nor test: {', '.join(others)}")
    return parts


def _paths(options: SourceOptions, test_only: bool) -> tuple[Path, Path | None, Path | None]:
    test_path = None if options.test_path is None else existing(options.test_path, "test_path")
    if test_only:
        return Path(), None, test_path
    root = existing(str(options.root), "root")
    if not root.is_dir():
        return root, None, test_path
    parts = table_parts(root)
    if test_path is not None and "test" in parts:
        note(f"{parts['test']}: its rows are left out, since data.test_path is the test set")
    return parts["train"], parts.get("val"), test_path or parts.get("test")


def _classes(table: Table, label: str, class_names: tuple[str, ...]) -> Tensor:
    return encoded(_labels(table, label), class_names, Place(table.file, table.lines).line)


def _label(table: Table, options: SourceOptions, known: TablePreprocessing | None) -> str:
    """The column of the class; of other files than those of the training its name may be the checkpoint's."""
    wanted = options.label if options.label is not None or known is None else known.label
    name = None if wanted is None else column_of(table, wanted)
    if name is None:
        got = "nothing" if wanted in (None, "") else wanted
        raise UserError(f"data.label: got {got}, must be one of the columns of {table.file}: {', '.join(table)}")
    return name


def _labels(table: Table, label: str) -> list[str]:
    if label not in table:
        raise UserError(f"data.label: got {label}, must be one of the columns of {table.file}: {', '.join(table)}")
    for row, cell in enumerate(table[label]):
        if is_missing(cell):
            raise UserError(f"{Place(table.file, table.lines).of(row, label)}: the label is missing")
    return label_texts(table[label])


def _rows(preprocessing: TablePreprocessing, table: Table) -> Tensor:
    lines: Sequence[int] = table.lines
    return torch.from_numpy(preprocessing.rows(table, table.file, lines))
