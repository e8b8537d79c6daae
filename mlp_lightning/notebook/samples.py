"""Samples in memory: arrays or the columns of a table, as a network takes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlp_lightning.data.array.files import Part
from mlp_lightning.data.array.labels import label_cells
from mlp_lightning.data.array.mapped import as_features
from mlp_lightning.data.array.scale import check_values, learned
from mlp_lightning.data.classes import check_labels, encoded, label_texts, names_of
from mlp_lightning.data.preprocessing import Preprocessing
from mlp_lightning.data.sources.arrays import check_samples
from mlp_lightning.data.sources.options import SourceOptions
from mlp_lightning.data.tabular.cells import column_name, is_missing
from mlp_lightning.data.tabular.frames import Columns
from mlp_lightning.data.tabular.table_learning import learn_table
from mlp_lightning.data.tabular.tables import Table
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.inputs.reader import Reader
from mlp_lightning.predicting.model import Model


class Learned(NamedTuple):
    """Samples of a training: ``x (N, D)``, ``y (N,)``, and what they teach of others."""

    x: Tensor
    y: Tensor
    class_names: tuple[str, ...]
    preprocessing: Preprocessing


def learn(x: Any, y: Any) -> Learned:
    """What a training learns of samples before it begins.

    Args:
        x: an array or tensor ``(N, D)`` or ``(N, H, W[, 3])``, as the source ``arrays`` reads them; or the columns of a
            table, a dict or a pandas frame.
        y: N labels, numbers or texts.

    Raises:
        UserError: samples or labels that cannot be read.
    """
    labels = _labels(y)
    check_labels(labels, "y")
    names = names_of(labels)
    preprocessing: Preprocessing
    if isinstance(x, dict) or hasattr(x, "columns"):
        # The label is no column of it.
        of_table = learn_table(_table(x), "", SourceOptions(missing="mean", unknown="zero"))
        rows, preprocessing = torch.from_numpy(of_table.rows(x)), of_table
    else:
        part = Part(_array(x), None, "x", "y", None)
        check_samples(part)
        preprocessing = learned(part, ())
        check_values(part, preprocessing)
        rows = torch.from_numpy(as_features(part.x, preprocessing.divisor))
    if len(rows) != len(labels):
        raise UserError(f"x: got {len(rows)} samples, but {len(labels)} labels in y, must be as many")
    return Learned(rows, _encoded(labels, names), names, preprocessing)


def read(model: Model, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Samples ``(N, D)`` and classes ``(N,)`` as those of a model's training.

    Raises:
        UserError: samples that do not fit the model, or a label that is none of its classes.
    """
    rows = torch.cat([part.x for part in Reader(model).parts(x)])
    labels = _labels(y)
    if len(rows) != len(labels):
        raise UserError(f"x: got {len(rows)} samples, but {len(labels)} labels in y, must be as many")
    return rows, _encoded(labels, model.class_names)


def _encoded(labels: Sequence[str], names: Sequence[str]) -> Tensor:
    return encoded(labels, names, lambda row: f"y, row {row}")


def _labels(y: Any) -> list[str]:
    return label_texts(label_cells(_array(y), "y"))


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _table(frame: Any) -> Table:
    """The cells of a frame as a file would have them."""
    columns, names = Columns(frame), [column_name(name) for name in getattr(frame, "columns", frame)]
    texts = {name: ["" if is_missing(cell) else str(cell) for cell in columns[name]] for name in names}
    n_rows = len(next(iter(texts.values()), []))
    return Table(texts, [*range(n_rows)], "x")
