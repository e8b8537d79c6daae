"""What a table's training part teaches of its columns: mean and deviation of numbers, and the categories."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mlp_lightning.data.notes import note
from mlp_lightning.data.preprocessing import TablePreprocessing
from mlp_lightning.data.sources.options import SourceOptions
from mlp_lightning.data.tabular.cells import Place, column_name, is_missing, number, shown, texts
from mlp_lightning.data.tabular.column_kinds import Kind, Numbers, Texts, Truths, column_kinds
from mlp_lightning.data.tabular.columns import CategoricalColumn, Column, NumericColumn
from mlp_lightning.data.tabular.tables import Table
from mlp_lightning.data.tabular.written import PLAIN
from mlp_lightning.errors import UserError

# From so many rows on, a text that hardly ever repeats is no category.
ENOUGH_ROWS = 20
# What pandas calls a column without a name, once it has read and saved it.
UNNAMED = re.compile(r"Unnamed: \d+(_level_\d+)?")
# Below this the square of a deviation has lost digits.
SMALL_DEVIATION = 1e-150


def learn_table(table: Table, label: str, options: SourceOptions, whole: Table | None = None) -> TablePreprocessing:
    """The preprocessing of all columns but the label and those of ``data.ignore``, with notes of what is not plain.

    A column is numeric if at least half of its values are numbers, true-or-false if its values are the two words of a
    pair, otherwise categorical; ``data.categorical`` names columns of codes.

    Args:
        table: the training part alone.
        label: the column of the class.
        options: those of ``csv``.
        whole: the table of which it is a part: how its cells are written is seen there.

    Raises:
        UserError: an option names a column that is not there, no column is left, or a column cannot be learned from.
    """
    ignored, coded = (named(getattr(options, option), option, table, label) for option in ("ignore", "categorical"))
    left_out = [name for name in table if UNNAMED.fullmatch(name) and name not in {*ignored, *coded, label}]
    columns = [name for name in table if name != label and name not in {*ignored, *left_out}]
    if not columns:
        raise UserError(f"data.root: {table.file} has no column besides the label and those of data.ignore")
    kinds = kinds_of(whole or table, [name for name in columns if name not in coded])
    _tell(table.file, [*table.unnamed, *left_out], ignored, kinds)
    place = Place(table.file, table.lines)
    learned = tuple(_learn(table[name], name, place, options, kinds.get(name)) for name in columns)
    return TablePreprocessing(learned, label)


def named(wanted: Iterable[str | float], option: str, table: Table, label: str) -> list[str]:
    """The columns that an option names; raises UserError for one that is not there, or is the label."""
    found = []
    for each in wanted:
        name = column_of(table, each)
        if name is None and each in table.unnamed:
            name = str(each)
        if name is None or name == label:
            raise UserError(f"data.{option}: got {each}, must be columns of {table.file} besides the label")
        found.append(name)
    return found


def column_of(table: Table, wanted: str | float) -> str | None:
    """The column of this name; of this number, where YAML has read a name such as 1e3 as one. None if there is none."""
    if isinstance(wanted, str):
        return column_name(wanted) if column_name(wanted) in table else None
    names = [name for name in table if number(name) == wanted]
    return names[0] if len(names) == 1 else str(wanted) if str(wanted) in names else None


def kinds_of(table: Table, names: Sequence[str]) -> dict[str, Kind]:
    """What these columns of a table hold."""
    return column_kinds({name: table[name] for name in names}, table.file, table.separator)


def _tell(file: str, left_out: Sequence[str], ignored: Sequence[str], kinds: dict[str, Kind]) -> None:
    """Notes of what is left out, or read in a way that may not be meant."""
    untold = [name for name in dict.fromkeys(left_out) if name not in ignored]
    if untold:
        note(f"{file}: columns without a name are left out: {', '.join(untold)}")
    ways = [
        f"{name} like {kind.written.example!r}"
        for name, kind in kinds.items()
        if isinstance(kind, Numbers) and kind.written != PLAIN
    ]
    if ways:
        note(f"{file}: numbers are read as they are written there: {', '.join(ways)}")
    like_others = {name: kind.odd for name, kind in kinds.items() if isinstance(kind, Texts) and kind.odd}
    odd = [f"{name} (such as {shown(cell)})" for name, cell in like_others.items()]
    if odd:
        note(f"{file}: taken as categories, being neither numbers nor one pair such as yes and no: {', '.join(odd)}")


def _learn(cells: Sequence[str], name: str, place: Place, options: SourceOptions, kind: Kind | None) -> Column:
    """``kind`` is None for a column of codes."""
    values = [cell for cell in cells if not is_missing(cell)]
    if not values:
        raise UserError(
            f"{place.file}, column {name!r}: every value of the training part is missing (data.ignore leaves it out)"
        )
    if isinstance(kind, Truths):
        return _numeric(NumericColumn(name, 0, 1, truth=True, written="/".join(kind.words)), cells, place, options)
    if isinstance(kind, Numbers):
        written = "" if kind.written == PLAIN else kind.written.example
        return _numeric(NumericColumn(name, 0, 1, written=written), cells, place, options)
    if kind is not None and len(values) >= ENOUGH_ROWS and 2 * len(set(values)) > len(values):
        different = len(set(values))
        odd = f", and {shown(kind.odd)} is no number" if kind.odd else ""
        raise UserError(
            f"{place.file}, column {name!r}: {different} different texts in {len(values)} rows are no categories{odd} "
            "(data.ignore leaves such a column out, data.categorical takes it nevertheless)"
        )
    return _categories(values, name, options)


def _categories(values: Sequence[str], name: str, options: SourceOptions) -> CategoricalColumn:
    counts = Counter(texts(values))
    categories = tuple(sorted(counts))
    # The first in order of equally frequent ones.
    fill = None if options.missing == "error" else max(categories, key=lambda category: counts[category])
    return CategoricalColumn(name, categories, fill, options.unknown)


def _numeric(column: NumericColumn, cells: Sequence[str], place: Place, options: SourceOptions) -> NumericColumn:
    """The column with mean, deviation and fill of these cells."""
    values = column.values(cells, place)
    given = values[~np.isnan(values)]
    fill = None
    if options.missing != "error":
        fill = _fill(given, "most_frequent" if column.truth else options.missing)
        values = np.where(np.isnan(values), fill, values)
    else:
        values = given
    mean, std = float(values.mean()), float(values.std())
    # Of a constant the deviation may be a rounding error.
    if values.min() == values.max():
        mean, std = float(values[0]), 1.0
    elif std < SMALL_DEVIATION:
        scale = float(np.abs(values - mean).max())
        std = scale * float(((values - mean) / scale).std())
    return replace(column, mean=mean, std=std, fill=fill)


def _fill(given: np.ndarray, how: str) -> float:
    if how == "mean":
        return float(given.mean())
    if how == "median":
        return float(np.median(given))
    found, counts = np.unique(given, return_counts=True)
    return float(found[counts.argmax()])
