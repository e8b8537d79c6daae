"""What each column of a table holds: numbers, and how they are written; true and false; or texts."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlp_lightning.data.tabular.cells import is_missing, shown
from mlp_lightning.data.tabular.written import PLAIN, Written, nearest, ways
from mlp_lightning.errors import UserError

# The words of a column of true and false, in lower case.
PAIRS = (("true", "false"), ("t", "f"), ("yes", "no"), ("y", "n"))
_WORDS = frozenset(word for pair in PAIRS for word in pair) | {"0", "1"}
# What begins like a number, perhaps with a sign or a currency.
_BEGINS_AS_NUMBER = re.compile(r"[<>≤≥~+−-]*\s*[^\w\s]?\s*\d")


class Numbers(NamedTuple):
    """A column of numbers."""

    written: Written = PLAIN


class Truths(NamedTuple):
    """A column of true and false, by its two words in lower case."""

    words: tuple[str, str]


class Texts(NamedTuple):
    """A column of categories; ``odd`` is a value that looks like a number or a truth, if most do."""

    odd: str = ""


Kind = Numbers | Truths | Texts


def column_kinds(columns: Mapping[str, Sequence[str]], file: str, separator: str) -> dict[str, Kind]:
    """What each column holds.

    True and false are the two words of one pair; numbers, where at least half of the values can be read in one way.
    ``1,234`` and ``1.234`` are read as the decimal signs of the table's other columns are.

    Args:
        columns: all cells by name, of the training and of what is set apart from it, which are written in one way.
        file: that errors name.
        separator: between its columns.

    Raises:
        UserError: numbers that can be read in two ways, and nothing tells which is meant.
    """
    values = {name: [cell for cell in cells if not is_missing(cell)] for name, cells in columns.items()}
    found = {name: _possible(each) for name, each in values.items()}
    certain = {name: kind[0] for name, kind in found.items() if isinstance(kind, list) and len(kind) == 1}
    signs = {_decimal_sign(way, values[name]) for name, way in certain.items()} - {""}
    kinds: dict[str, Kind] = {}
    for name, possible in found.items():
        if isinstance(possible, list):
            way = _meant(possible, signs, separator, values[name])
            if way is None:
                cell = next(cell for cell in values[name] if not cell.isdigit())
                raise UserError(
                    f"{file}, column {name!r}: {shown(cell)} may have a decimal sign or thousands set apart, and no "
                    "other column tells which; write it without the latter (data.ignore leaves the column out, "
                    "data.categorical takes it as texts)"
                )
            kinds[name] = Numbers(way)
        else:
            kinds[name] = possible
    return kinds


def _possible(values: Sequence[str]) -> Truths | Texts | list[Written]:
    """The kind, or the one or two ways in which the numbers may be written."""
    words = {value.lower() for value in set(values)}
    for pair in PAIRS:
        if words == {*pair}:
            return Truths(pair)
    if not values:
        return Texts()
    found = ways(values)
    if found:
        return found
    best, n = nearest(values)
    # 1 year and 2 years are answers to choose from, where 5 % and 7 are one number written in two ways.
    if 2 * n >= len(values) and not best.after[:1].isalpha():
        return [best]
    if len(words) > 1 and words <= _WORDS:
        return Texts(values[0])
    like = [value for value in values if _BEGINS_AS_NUMBER.match(value)]
    return Texts(like[0] if 2 * len(like) >= len(values) else "")


def _decimal_sign(way: Written, values: Sequence[str]) -> str:
    """The decimal sign that a column shows, if it shows one."""
    if way.decimal == "," or way.thousands == ",":
        return way.decimal
    return "." if any("." in value for value in values) else ""


def _meant(possible: list[Written], signs: set[str], separator: str, values: Sequence[str]) -> Written | None:
    """The way that is meant of those possible; None if nothing tells."""
    if len(possible) == 1:
        return possible[0]
    if len(signs) == 1:
        return next(way for way in possible if way.decimal in signs)
    if signs:
        return None
    # Who separates columns by a comma has points for decimals.
    if separator == ",":
        return next(way for way in possible if way.decimal == ".")
    # Programs write a fixed number of decimals, or only those that are not 0: not three or none.
    return possible[0] if possible[0].decimal == "." and all("." in value for value in values) else None
