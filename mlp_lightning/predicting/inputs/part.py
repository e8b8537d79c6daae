"""A bounded number of samples, and what their readers share: how many, their labels, and how they refuse."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mlp_lightning.data.classes import class_of, index_of, label_text
from mlp_lightning.data.preprocessing import ImagePreprocessing, TablePreprocessing
from mlp_lightning.data.tabular.cells import is_missing
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.model import BATCH_SIZE, Model

# Numbers in one part, so that large pictures do not fill the memory.
MOST_VALUES = 2**22


@dataclass(frozen=True)
class Part:
    """B samples: ``x (B, D)``, float32, where each comes from, and its true class, if the input tells it.

    ``files`` are empty for what comes from no file; ``rows`` are the lines in a table, the indices in an array, and
    None for pictures.
    """

    x: Tensor
    files: list[str]
    rows: list[int | None]
    labels: list[str | None]


def rows_at_once(model: Model) -> int:
    """How many samples a part has at most."""
    return max(1, min(BATCH_SIZE, MOST_VALUES // model.preprocessing.n_features))


def true_label(model: Model, cell: Any, place: str) -> str | None:
    """The name of a class, None for a missing one; raises UserError if the model knows no such class."""
    if is_missing(cell):
        return None
    label = label_text(cell)
    if label in model.class_names:
        return label
    k = class_of(label, index_of(model.class_names))
    if k is None:
        raise UserError(f"{place}: got {label!r}, which is no class of {model.path}")
    return model.class_names[k]


def refused(model: Model, name: str) -> UserError:
    """The error of an input of another kind than the model takes."""
    return UserError(f"{name}: cannot be used, {model.path} takes {wanted(model)}")


def wanted(model: Model) -> str:
    """What a model takes, in words."""
    kind = model.preprocessing
    if isinstance(kind, ImagePreprocessing):
        return f"{'grey' if kind.channels == 1 else 'colour'} pictures of {kind.height} × {kind.width} pixels"
    return (
        "tables (.csv)" if isinstance(kind, TablePreprocessing) else f"arrays (.npy, .npz) of {kind.n_features} numbers"
    )
