"""The cells of a table: which are missing, which are numbers, and how an error names one."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.errors import UserError

# What a cell without a value holds, in files of many origins.
MISSING = frozenset({"", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null"})
TRUTH = {"true": 1.0, "yes": 1.0, "t": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "f": 0.0, "n": 0.0}
LONGEST_SHOWN = 40


class Place(NamedTuple):
    """Where a table's rows come from: ``lines[i]`` is the line of row i in ``file``; both empty if there is none."""

    file: str = ""
    lines: Sequence[int] = ()

    def of(self, row: int, column: str) -> str:
        """The cell in words."""
        return f"{self.line(row)}, column {column!r}"

    def line(self, row: int) -> str:
        """The row in words."""
        where = f"line {self.lines[row]}" if len(self.lines) else f"row {row}"
        return f"{self.file}, {where}" if self.file else where


def text(cell: Any) -> str:
    """A cell as the file has it, without space around it."""
    return cell.strip() if isinstance(cell, str) else str(cell)


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value."""
    return cell is None or text(cell) in MISSING


def number(cell: Any) -> float | None:
    """The number in a cell, which may be infinite; NaN for a missing one, None for what is no number."""
    if is_missing(cell):
        return math.nan
    # Python reads 1_000 as a number, no other program does.
    written = text(cell)
    try:
        return None if "_" in written else float(written)
    except ValueError:
        return None


def shown(cell: Any) -> str:
    """A cell in quotes, cut to a line's part."""
    written = text(cell)
    return repr(written if len(written) <= LONGEST_SHOWN else f"{written[: LONGEST_SHOWN - 1]}…")


def numbers(cells: Sequence[Any], column: str, place: Place) -> NDArray[np.float64]:
    """A column of numbers, NaN where they are missing.

    Raises:
        UserError: a cell that is no number, or an infinite one.
    """
    array = cells if isinstance(cells, np.ndarray) else None
    if array is not None and array.dtype.kind in "fiub":
        values = array.astype(np.float64)
    else:
        found = [number(cell) for cell in cells]
        wrong = next((row for row, value in enumerate(found) if value is None), None)
        if wrong is not None:
            raise UserError(
                f"{place.of(wrong, column)}: got {shown(cells[wrong])}, must be a number as elsewhere in this column "
                "(data.categorical takes columns of codes)"
            )
        values = np.array(found, dtype=np.float64)
    infinite = np.isinf(values)
    if infinite.any():
        raise UserError(
            f"{place.of(int(infinite.argmax()), column)}: got {shown(cells[int(infinite.argmax())])}, must be finite"
        )
    return values


def truths(cells: Sequence[Any], column: str, place: Place) -> NDArray[np.float64]:
    """A column of true and false as 1 and 0, NaN where they are missing.

    Raises:
        UserError: a cell that is neither.
    """
    values = np.empty(len(cells))
    for row, cell in enumerate(cells):
        value = math.nan if is_missing(cell) else TRUTH.get(text(cell).lower())
        value = number(cell) if value is None else value
        if value is None or (value not in (0.0, 1.0) and not math.isnan(value)):
            raise UserError(f"{place.of(row, column)}: got {shown(cell)}, must be true or false")
        values[row] = value
    return values
