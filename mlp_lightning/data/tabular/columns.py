"""The columns of a table as the network is given them: numbers standardised, categories one-hot."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.data.tabular.cells import (
    LARGEST,
    Place,
    composed,
    is_missing,
    number,
    place_of,
    refused_missing,
    shown,
    text,
)
from mlp_lightning.data.tabular.column_kinds import PAIRS
from mlp_lightning.data.tabular.written import PLAIN, Written, written_as
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
        written: how 1234.5 is written there, if not so; of true and false the two words, such as ``yes/no``.
    """

    name: str
    mean: float
    std: float
    fill: float | None = None
    truth: bool = False
    written: str = ""
    kind: ClassVar[str] = "numeric"

    def __post_init__(self) -> None:
        # A checkpoint may hold anything.
        if not isinstance(self.written, str):
            raise TypeError(f"written must be a text, got {type(self.written).__name__}")
        if self.written and not self.truth:
            written_as(self.written)

    @property
    def width(self) -> int:
        """Entries of x."""
        return 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, **asdict(self)}

    def values(self, cells: Sequence[Any], place: Place) -> NDArray[np.float64]:
        """``(N,)``, NaN where a value is missing; raises UserError for a cell that is no finite number."""
        if self.truth:
            return truths(cells, self.name, place, self.written)
        return numbers(cells, self.name, place, written_as(self.written) if self.written else PLAIN)

    def rows(self, cells: Sequence[Any], place: Place) -> NDArray[np.float64]:
        """``(N, 1)``; raises UserError for a cell that is no number, or too large for float32."""
        values = self.values(cells, place)
        missing = np.isnan(values)
        if missing.any():
            if self.fill is None:
                raise refused_missing(place, int(missing.argmax()), self.name)
            values = np.where(missing, self.fill, values)
        with np.errstate(over="ignore"):
            x = (values - self.mean) / self.std
        large = ~(np.abs(x) <= LARGEST)
        if large.any():
            row = int(large.argmax())
            raise UserError(
                f"{place.of(row, self.name)}: got {shown(cells[row])}, which is too large: standardised by the "
                f"training's mean {self.mean:g} and deviation {self.std:g} it must be at most {LARGEST:.3g}"
            )
        return x[:, None]

    def guessed(self, cells: Sequence[Any]) -> tuple[int, Counter[str]]:
        """How many missing cells are filled in; nothing is unknown."""
        return 0 if self.fill is None else sum(map(is_missing, cells)), Counter()


@dataclass(frozen=True)
class CategoricalColumn:
    """A column of texts, one-hot; 2.0 is the category 2.

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
        index = self._index
        x = np.zeros((len(cells), len(index)))
        for row, cell in enumerate(cells):
            if is_missing(cell) and self.fill is None:
                raise refused_missing(place, row, self.name)
            k = place_of(composed(self.fill) if self.fill is not None and is_missing(cell) else text(cell), index)
            if k is not None:
                x[row, k] = 1
            elif self.unknown == "error":
                raise UserError(
                    f"{place.of(row, self.name)}: got {shown(cell)}, which no training row has there "
                    "(data.unknown: zero takes such categories as none)"
                )
        return x

    def guessed(self, cells: Sequence[Any]) -> tuple[int, Counter[str]]:
        """How many missing cells are filled in, and how often which unknown category is taken as none."""
        index, missing = self._index, [is_missing(cell) for cell in cells]
        filled = 0 if self.fill is None else sum(missing)
        if self.unknown == "error":
            return filled, Counter()
        written = [text(cell) for cell, gone in zip(cells, missing, strict=True) if not gone]
        return filled, Counter(each for each in written if place_of(each, index) is None)

    @property
    def _index(self) -> dict[str, int]:
        return {composed(category): k for k, category in enumerate(self.categories)}


Column = NumericColumn | CategoricalColumn


def numbers(cells: Sequence[Any], column: str, place: Place, written: Written = PLAIN) -> NDArray[np.float64]:
    """A column of numbers, NaN where they are missing; numbers from Python are taken as they are.

    Raises:
        UserError: a cell that is no number written in this way, or one larger than float32 holds.
    """
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "fiub":
        values = cells.astype(np.float64)
    else:
        found = [written.number(cell.strip()) if isinstance(cell, str) else number(cell) for cell in cells]
        wrong = next((row for row, value in enumerate(found) if value is None), None)
        if wrong is not None:
            as_written = "" if written == PLAIN else f" written like {written.example!r},"
            raise UserError(
                f"{place.of(wrong, column)}: got {shown(cells[wrong])}, must be a number{as_written} as elsewhere in "
                "this column (data.categorical takes columns of codes)"
            )
        values = np.array(found, dtype=np.float64)
    large = np.abs(values) > LARGEST
    if large.any():
        row = int(large.argmax())
        raise UserError(f"{place.of(row, column)}: got {shown(cells[row])}, must be finite, at most {LARGEST:.3g}")
    return values


def truths(cells: Sequence[Any], column: str, place: Place, written: str = "") -> NDArray[np.float64]:
    """A column of true and false as 1 and 0, NaN where they are missing.

    Args:
        cells: besides the column's own words 1 and 0, true and false, yes and no are taken.
        column: its name.
        place: of the rows.
        written: the column's own words, such as ``t/f``; empty for those of any pair.

    Raises:
        UserError: a cell that is neither.
    """
    known = {"/".join(pair): pair for pair in PAIRS}
    pairs = [*(pair for pair in PAIRS if len(pair[0]) > 1), known[written]] if written in known else PAIRS
    meaning = {word: value for pair in pairs for word, value in zip(pair, (1.0, 0.0), strict=True)}
    example = f", written {written}" if written else ""
    values = np.empty(len(cells))
    for row, cell in enumerate(cells):
        value = math.nan if is_missing(cell) else meaning.get(text(cell).lower())
        value = number(cell) if value is None else value
        if value is None or (value not in (0.0, 1.0) and not math.isnan(value)):
            raise UserError(f"{place.of(row, column)}: got {shown(cell)}, must be true or false{example}")
        values[row] = value
    return values


def column_from(values: Mapping[str, Any]) -> Column:
    """The column whose ``to_dict`` gave these values."""
    options = {name: value for name, value in values.items() if name != "kind"}
    if "categories" in options:
        options["categories"] = tuple(options["categories"])
    kind = {each.kind: each for each in (NumericColumn, CategoricalColumn)}[values["kind"]]
    return kind(**options)
