"""How the numbers of a column are written: decimal commas, thousands, a currency in front, a unit behind."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from mlp_lightning.data.tabular.cells import MINUS, number
from mlp_lightning.errors import UserError

LONGEST = 60
SPACES = " \u00a0\u2009\u202f"
APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"
_SPELLINGS = {" ": SPACES, "'": APOSTROPHES}
# The decimal sign and what separates thousands, the usual first.
SEPARATORS = ((".", ""), (",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"), (",", "'"))

_SIGN = "$\u00a2-\u00a5\u058f\u060b\u09f2\u09f3\u0e3f\u20a0-\u20cf\ufdfc\uff04\uffe0\uffe1\uffe5\uffe6"
_CODE = "USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|Rs|kr"
_PARTS = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<before>(?:[A-Z]{{0,3}}[{_SIGN}]|(?:{_CODE})\.?)?)\s*(?P<second>[+-]?)\s*"
    rf"(?P<digits>(?:[0-9]|[.,](?=[0-9]))(?:[0-9]|[.,{APOSTROPHES}{SPACES}](?=[0-9]))*(?:[eE][+-]?[0-9]+(?![0-9]))?)"
    rf"\s*(?P<after>(?:(?:[^\W\d_]|[%\u2030\u00b0\u2032\u2033\u00b5{_SIGN}])[^\d,;:|_()\[\]]*[23]?)?)"
)


class Written(NamedTuple):
    """How numbers are written.

    Args:
        decimal: a point or a comma.
        thousands: what stands between groups of three digits: nothing, a comma, a point, a space or an apostrophe.
        before: a currency in front of every number.
        after: a percent sign, currency or unit behind every number.
    """

    decimal: str = "."
    thousands: str = ""
    before: str = ""
    after: str = ""

    @property
    def example(self) -> str:
        """The number 1234.5 so written, from which ``written_as`` finds the rest."""
        space = " " if self.after[:1].isalpha() else ""
        return f"{self.before}1{self.thousands}234{self.decimal}5{space}{self.after}"

    def number(self, cell: str) -> float | None:
        """The number in a cell; NaN for a missing one, None for what is not so written."""
        if self == PLAIN:
            return number(cell)
        parts = _parts(cell)
        if parts is None:
            value = number(cell)
            return value if value != value else None
        sign, before, digits, after = parts
        if (before, after) != (self.before, self.after) or not _digits(self.decimal, self.thousands).fullmatch(digits):
            return None
        for group in _SPELLINGS.get(self.thousands, self.thousands):
            digits = digits.replace(group, "")
        return float(sign + digits.replace(self.decimal, "."))


PLAIN = Written()


def written_as(example: str) -> Written:
    """What has this example; raises UserError for what is none."""
    found = re.fullmatch(r"(\D*)1([,.' ]?)234([.,])5\s?(.*)", example)
    if found is None or found[2] == found[3]:
        raise UserError(f"no number is written like {example!r}")
    return Written(found[3], found[2], found[1], found[4])


def ways(values: Sequence[str]) -> list[Written]:
    """The ways of writing numbers in which all of a column's values can be read, the usual first.

    A way whose signs no value has is not among them. There are two for ``1,234`` and for ``1.234``, where the point or
    the comma may be the decimal sign or separate thousands; otherwise at most one.
    """
    different = set(values)
    if all(number(value) is not None for value in different):
        grouped = Written(",", ".")
        has_points = any("." in value for value in different)
        other = has_points and all(grouped.number(value) is not None for value in different)
        return [PLAIN, grouped] if other else [PLAIN]
    affixes = _affixes(different)
    digits = {parts[2] for value in different if (parts := _parts(value)) is not None}
    found = [Written(*signs, *affixes) for signs in SEPARATORS]
    return [
        way for way in found if _has_signs(way, digits) and all(way.number(value) is not None for value in different)
    ]


def nearest(values: Sequence[str]) -> tuple[Written, int]:
    """The way in which most of a column's values can be read, and how many; the usual one of several."""
    counts = Counter(values)
    affixes = _affixes(counts)
    candidates = dict.fromkeys([PLAIN, *(Written(*signs, *affixes) for signs in SEPARATORS)])
    read = {way: sum(n for value, n in counts.items() if way.number(value) is not None) for way in candidates}
    best = max(read, key=lambda way: read[way])
    return best, read[best]


def _parts(cell: str) -> tuple[str, str, str, str] | None:
    """Sign, what is before, digits, what is after; None for what is no number in any way."""
    # The pattern takes long for a long text of spaces.
    found = _PARTS.fullmatch(cell.translate(MINUS)) if len(cell) <= LONGEST else None
    if found is None or (found["sign"] and found["second"]):
        return None
    return found["sign"] or found["second"], found["before"], found["digits"], found["after"].strip()


def _affixes(values: Iterable[str]) -> tuple[str, str]:
    """What most of the values have before and after their digits."""
    pairs = Counter((parts[1], parts[3]) for value in values if (parts := _parts(value)) is not None)
    return pairs.most_common(1)[0][0] if pairs else ("", "")


def _has_signs(way: Written, digits: Iterable[str]) -> bool:
    signs = [way.thousands] if way.thousands else []
    signs += [","] if way.decimal == "," and way.thousands != "." else []
    return all(any(one in each for each in digits for one in _SPELLINGS.get(sign, sign)) for sign in signs)


@lru_cache
def _digits(decimal: str, thousands: str) -> re.Pattern[str]:
    point = re.escape(decimal)
    if not thousands:
        return re.compile(rf"(?:[0-9]+(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?")
    group = f"[{_SPELLINGS.get(thousands, thousands)}]"
    return re.compile(rf"(?:[1-9][0-9]{{0,2}}(?:{group}[0-9]{{3}})+|[0-9]+)(?:{point}[0-9]+)?")
