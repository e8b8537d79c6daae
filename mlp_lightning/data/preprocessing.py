"""What turns a sample as the user has it into the network's input: fixed by the training data, kept in checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.data.array.preprocessing import ArrayPreprocessing, ImagePreprocessing
from mlp_lightning.data.tabular.cells import Place
from mlp_lightning.data.tabular.columns import CategoricalColumn, Column, NumericColumn, column_from
from mlp_lightning.data.tabular.frames import Columns
from mlp_lightning.errors import UserError

MOST_NAMED = 5

__all__ = [
    "ArrayPreprocessing",
    "CategoricalColumn",
    "Column",
    "ImagePreprocessing",
    "NumericColumn",
    "Preprocessing",
    "TablePreprocessing",
    "preprocessing_from",
]


@dataclass(frozen=True)
class TablePreprocessing:
    """The columns of a table, standardised or one-hot, side by side.

    Args:
        columns: those that the network is given, in order.
        label: the column of the class.
    """

    columns: tuple[Column, ...]
    label: str = ""
    kind: ClassVar[str] = "table"

    @property
    def n_features(self) -> int:
        """D."""
        return sum(column.width for column in self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """D names: ``column`` or ``column=category``."""
        names: list[str] = []
        for column in self.columns:
            if isinstance(column, NumericColumn):
                names.append(column.name)
            else:
                names += [f"{column.name}={category}" for category in column.categories]
        return tuple(names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "label": self.label, "columns": [column.to_dict() for column in self.columns]}

    def rows(
        self, frame: Mapping[str, Sequence[Any]], file: str = "", lines: Sequence[int] = ()
    ) -> NDArray[np.float32]:
        """The network's input ``(N, D)``, float32.

        Args:
            frame: the cells of each column by its name, texts or numbers: a ``Table``, a dict, a pandas frame. Other
                columns are passed over.
            file: that errors name.
            lines: the line of each row in it; empty to count rows from 0.

        Raises:
            UserError: a column that is not there, or a cell that does not fit its column.
        """
        columns, place = Columns(frame, file), Place(file, lines)
        parts = [column.rows(columns[column.name], place) for column in self.columns]
        if not parts:
            raise UserError(f"{file or 'the table'} has no column besides the label")
        return np.concatenate(parts, 1).astype(np.float32)

    def guesses(self, frame: Mapping[str, Sequence[Any]], file: str = "") -> list[str]:
        """What ``rows`` replaces in a table, in words: missing cells by column, and unknown categories."""
        columns = Columns(frame, file)
        filled, unknown = [], []
        for column in self.columns:
            missing, others = column.guessed(columns[column.name])
            if missing:
                fill = column.fill if isinstance(column.fill, str) else f"{column.fill:g}"
                filled.append(f"{column.name} {missing} (by {fill})")
            if others:
                most = ", ".join(repr(each) for each, _ in others.most_common(MOST_NAMED))
                more = ", …" if len(others) > MOST_NAMED else ""
                unknown.append(f"{column.name} {others.total()} ({most}{more})")
        lines = [f"missing cells filled in: {', '.join(filled)}"] if filled else []
        said = "cells with a category that no training row has, taken as none"
        return lines + ([f"{said}: {', '.join(unknown)}"] if unknown else [])


Preprocessing = ImagePreprocessing | TablePreprocessing | ArrayPreprocessing


def preprocessing_from(values: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing whose ``to_dict`` gave these values.

    Raises:
        UserError: there is no such kind.
    """
    options = {name: value for name, value in values.items() if name != "kind"}
    kind = values.get("kind")
    if kind in ("image", "array") and options.setdefault("divisor", None) not in (None, 1, 255):
        raise UserError(f"the checkpoint's preprocessing has the divisor {options['divisor']!r}, must be 1 or 255")
    if kind == "image":
        return ImagePreprocessing(**options)
    if kind == "array":
        return ArrayPreprocessing(**{**options, "shape": tuple(options.get("shape", ()))})
    if kind == "table":
        return TablePreprocessing(tuple(column_from(column) for column in options["columns"]), options["label"])
    raise UserError(f"the checkpoint's preprocessing is of the kind {kind!r}, must be image, table or array")
