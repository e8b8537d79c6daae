"""Rows of tables, with the columns that the model was trained on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mlp_lightning.data.notes import note
from mlp_lightning.data.preprocessing import TablePreprocessing
from mlp_lightning.data.tabular.cells import column_name
from mlp_lightning.data.tabular.tables import read_table
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.inputs.part import Part, refused, rows_at_once, true_label
from mlp_lightning.predicting.model import Model


def table_parts(model: Model, path: Path) -> Iterator[Part]:
    """A CSV file; a column of labels may be among the others.

    Raises:
        UserError: the file cannot be read, lacks a column, or has a cell that does not fit.
    """
    kind = model.preprocessing
    if not isinstance(kind, TablePreprocessing):
        raise refused(model, str(path))
    table = read_table(path)
    for line in kind.guesses(table, str(path)):
        note(f"{path}: {line}")
    label = column_name(kind.label)
    for start in range(0, table.n_rows, rows_at_once(model)):
        part = table.take(range(start, min(start + rows_at_once(model), table.n_rows)))
        x = torch.from_numpy(kind.rows(part, part.file, part.lines))
        cells = part[label] if label in part else [None] * part.n_rows
        labels = [
            true_label(model, cell, f"{path}, line {line}, column {kind.label!r}")
            for cell, line in zip(cells, part.lines, strict=True)
        ]
        yield Part(x, [str(path)] * len(x), [*part.lines], labels)


def column_parts(model: Model, frame: Any) -> Iterator[Part]:
    """The columns of a dict or a pandas frame; raises UserError as ``table_parts``."""
    if not isinstance(model.preprocessing, TablePreprocessing):
        raise refused(model, "columns of a table")
    x = torch.from_numpy(model.preprocessing.rows(frame))
    if len(x) == 0:
        raise UserError("the table: has no rows")
    for line in model.preprocessing.guesses(frame):
        note(line)
    yield Part(x, [""] * len(x), [*range(len(x))], [None] * len(x))
