"""The cells of a table: which are missing, which are numbers, what their text is, and how an error names one."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlp_lightning.errors import UserError

# What a cell without a value holds, in files of many origins.
MISSING = frozenset(
    {"", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NAN", "-NaN", "-nan", "NULL", "null", "<NA>", "NaT"}
)
# Signs that programs write in place of the hyphen.
MINUS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{SMALL HYPHEN-MINUS}": "-", "\N{FULLWIDTH HYPHEN-MINUS}": "-"})
# A whole number as it is usually written, and perhaps the zeros that pandas adds once a column has a missing value.
WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.0+)?")
# The network's numbers are float32.
LARGEST = float(np.finfo(np.float32).max)
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


def composed(written: str) -> str:
    """The text in Unicode's composed form (NFC): é is one character, however a program wrote it."""
    return written if written.isascii() else unicodedata.normalize("NFC", written)


def text(cell: Any) -> str:
    """A cell as a file has it, composed, without space around it; a whole float of any size as 2.0."""
    if isinstance(cell, str):
        return composed(cell.strip())
    if isinstance(cell, float | np.floating) and math.isfinite(cell) and cell == int(cell):
        return f"{int(cell)}.0"
    return cell.decode(errors="replace").strip() if isinstance(cell, bytes) else str(cell)


def column_name(written: Any) -> str:
    """A column's name: composed, with one space in place of line breaks and of several spaces."""
    return " ".join(composed(str(written)).split())


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value."""
    # pandas need not be installed; its NA refuses to be compared.
    return cell is None or type(cell).__name__ == "NAType" or text(cell) in MISSING


def texts(cells: Sequence[Any]) -> list[str]:
    """The texts of a column of labels or codes.

    If all are whole numbers, 2.0 is 2: pandas writes so once a value is missing. In any other column each text is kept
    as it is: 01, 1 and 1E3 are three texts.
    """
    written = [text(cell) for cell in cells]
    whole = {each: WHOLE.fullmatch(each) for each in set(written) if each not in MISSING}
    if not all(whole.values()):
        return written
    return [match[1] if (match := whole.get(each)) else each for each in written]


def place_of(written: str, index: Mapping[str, int]) -> int | None:
    """The place of a text among those known, where 2.0 and 2 are the same unless both are known; None if it has none.

    Args:
        written: from ``text``.
        index: the place of each known text.
    """
    if written in index:
        return index[written]
    whole = WHOLE.fullmatch(written)
    if whole is None:
        return None
    return index.get(whole[1] if whole[2] else f"{whole[1]}.0")


def number(cell: Any) -> float | None:
    """The number in a cell, which may be infinite; NaN for a missing one, None for what is no number."""
    if is_missing(cell):
        return math.nan
    # Python reads 1_000 as a number, no other program does.
    written = text(cell).translate(MINUS)
    try:
        value = None if "_" in written else float(written)
    except ValueError:
        return None
    return None if value != value else value


def shown(cell: Any) -> str:
    """A cell in quotes, cut to a line's part."""
    written = text(cell)
    return repr(written if len(written) <= LONGEST_SHOWN else f"{written[: LONGEST_SHOWN - 1]}…")


def refused_missing(place: Place, row: int, column: str) -> UserError:
    """The error of a cell without a value."""
    return UserError(f"{place.of(row, column)}: the value is missing (data.missing: mean fills in such cells)")
