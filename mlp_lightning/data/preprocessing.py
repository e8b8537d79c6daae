"""What turns a sample as the user has it into the network's input: fixed by the training data, kept in checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.data.array_preprocessing import ArrayPreprocessing, ImagePreprocessing
from mlp_lightning.data.cells import Place, is_missing, numbers, shown, text, truths
from mlp_lightning.errors import UserError

Unknown = Literal["error", "zero"]


@dataclass(frozen=True)
class NumericColumn:
    """A column of numbers, or of true and false as 1 and 0: x = (value − mean) / std.

    Args:
        name: in the header.
        mean: of the training part.
        std: of the training part, divided by N; 1 for a constant column, which so becomes 0.
        fill: stands in for a missing value; None refuses it.
        truth: whether it holds true and false.
    """

    name: str
    mean: float
    std: float
    fill: float | None = None
    truth: bool = False
    kind: ClassVar[str] = "numeric"

    @property
    def width(self) -> int:
        """Entries of x."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, **asdict(self)}

    def rows(self, cells: Sequence[Any], place: Place) -> NDArray[np.float64]:
        """``(N, 1)``; raises UserError for a cell that is no finite number."""
        values = (truths if self.truth else numbers)(cells, self.name, place)
        missing = np.isnan(values)
        if missing.any():
            if self.fill is None:
                raise refused_missing(place, int(missing.argmax()), self.name)
            values[missing] = self.fill
        return ((values - self.mean) / self.std)[:, None]


@dataclass(frozen=True)
class CategoricalColumn:
    """A column of texts, one-hot.

    Args:
        name: in the header.
        categories: those of the training part, sorted.
        fill: stands in for a missing value; None refuses it.
        unknown: whether another category is refused (``"error"``) or gives zeros alone (``"zero"``).
    """

    name: str
    categories: tuple[str, ...]
    fill: str | None = None
    unknown: Unknown = "error"
    kind: ClassVar[str] = "categorical"

    @property
    def width(self) -> int:
        """Entries of x."""
        return len(self.categories)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, **asdict(self), "categories": list(self.categories)}

    def rows(self, cells: Sequence[Any], place: Place) -> NDArray[np.float64]:
        """``(N, K)``; raises UserError for a missing or unknown category."""
        index = {category: k for k, category in enumerate(self.categories)}
        x = np.zeros((len(cells), len(index)))
        for row, cell in enumerate(cells):
            if is_missing(cell) and self.fill is None:
                raise refused_missing(place, row, self.name)
            k = index.get(self.fill if self.fill is not None and is_missing(cell) else text(cell))
            if k is not None:
                x[row, k] = 1
            elif self.unknown == "error":
                raise UserError(
                    f"{place.of(row, self.name)}: got {shown(cell)}, which no training row has there "
                    "(data.unknown: zero takes such categories as none)"
                )
        return x


Column = NumericColumn | CategoricalColumn
COLUMNS: dict[str, type[NumericColumn] | type[CategoricalColumn]] = {
    kind.kind: kind for kind in (NumericColumn, CategoricalColumn)
}


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
        parts = []
        for column in self.columns:
            if column.name not in frame:
                raise UserError(f"{file or 'the table'} has no column {column.name!r}, which the model was trained on")
            parts.append(column.rows(_cells(frame[column.name]), Place(file, lines)))
        if not parts:
            raise UserError(f"{file or 'the table'} has no column besides the label")
        return np.concatenate(parts, 1).astype(np.float32)


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
        return TablePreprocessing(tuple(_column(column) for column in options["columns"]), options["label"])
    raise UserError(f"the checkpoint's preprocessing is of the kind {kind!r}, must be image, table or array")


def refused_missing(place: Place, row: int, column: str) -> UserError:
    """The error of a cell without a value."""
    return UserError(f"{place.of(row, column)}: the value is missing (data.missing: mean fills in such cells)")


def _column(values: Mapping[str, Any]) -> Column:
    options = {name: value for name, value in values.items() if name != "kind"}
    if "categories" in options:
        options["categories"] = tuple(options["categories"])
    return COLUMNS[values["kind"]](**options)


def _cells(column: Any) -> Sequence[Any]:
    """A column as a list or an array, whose places count from 0: a pandas one has an index of its own."""
    return column if isinstance(column, list | tuple) else np.asarray(column)  # type: ignore[return-value]
