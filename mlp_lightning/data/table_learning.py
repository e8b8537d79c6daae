"""What a table's training part teaches of its columns: which are numbers, their mean and deviation, the categories."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mlp_lightning.data.cells import TRUTH, Place, is_missing, number, numbers, text, truths
from mlp_lightning.data.preprocessing import CategoricalColumn, Column, NumericColumn, TablePreprocessing
from mlp_lightning.data.source_options import SourceOptions
from mlp_lightning.data.tables import Table
from mlp_lightning.errors import UserError

# From so many rows on, a text that hardly ever repeats is no category.
ENOUGH_ROWS = 20


def learn_table(table: Table, label: str, options: SourceOptions) -> TablePreprocessing:
    """The preprocessing of all columns but the label and those of ``data.ignore``.

    A column is numeric if at least half of its values are numbers, true-or-false if all are such words, otherwise
    categorical; ``data.categorical`` names columns of codes.

    Args:
        table: the training part alone.
        label: the column of the class.
        options: those of ``csv``.

    Raises:
        UserError: an option names a column that is not there, no column is left, or a column cannot be learned from.
    """
    for option, names in (("ignore", options.ignore), ("categorical", options.categorical)):
        for name in names:
            if name not in table or name == label:
                raise UserError(f"data.{option}: got {name}, must be columns of {table.file} besides the label")
    columns = [name for name in table if name != label and name not in options.ignore]
    if not columns:
        raise UserError(f"data.root: {table.file} has no column besides the label and those of data.ignore")
    place = Place(table.file, table.lines)
    return TablePreprocessing(tuple(_learn(table[name], name, place, options) for name in columns), label)


def _learn(cells: Sequence[str], name: str, place: Place, options: SourceOptions) -> Column:
    values = [cell for cell in cells if not is_missing(cell)]
    if not values:
        raise UserError(
            f"{place.file}, column {name!r}: every value of the training part is missing (data.ignore leaves it out)"
        )
    if name in options.categorical:
        return _categories(values, name, options)
    if all(value.lower() in TRUTH for value in values):
        return _numeric(truths(cells, name, place), name, place, options, truth=True)
    if 2 * sum(number(value) is not None for value in values) >= len(values):
        return _numeric(numbers(cells, name, place), name, place, options)
    if len(values) >= ENOUGH_ROWS and 2 * len(set(values)) > len(values):
        different = len(set(values))
        raise UserError(
            f"{place.file}, column {name!r}: {different} different texts in {len(values)} rows are no categories "
            "(data.ignore leaves such a column out, data.categorical takes it nevertheless)"
        )
    return _categories(values, name, options)


def _categories(values: Sequence[str], name: str, options: SourceOptions) -> CategoricalColumn:
    counts = Counter(text(value) for value in values)
    categories = tuple(sorted(counts))
    # The first in order of equally frequent ones.
    fill = None if options.missing == "error" else max(categories, key=lambda category: counts[category])
    return CategoricalColumn(name, categories, fill, options.unknown)


def _numeric(
    values: np.ndarray, name: str, place: Place, options: SourceOptions, *, truth: bool = False
) -> NumericColumn:
    given = values[~np.isnan(values)]
    fill = None
    if options.missing != "error":
        fill = _fill(given, "most_frequent" if truth else options.missing)
        values = np.where(np.isnan(values), fill, values)
    else:
        values = given
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise UserError(f"{place.file}, column {name!r}: numbers up to {np.abs(values).max():g} are too large")
    # Of a constant the deviation may be a rounding error.
    if values.min() == values.max() or std == 0:
        mean, std = float(values[0]), 1.0
    return NumericColumn(name, mean, std, fill, truth)


def _fill(given: np.ndarray, how: str) -> float:
    if how == "mean":
        return float(given.mean())
    if how == "median":
        return float(np.median(given))
    found, counts = np.unique(given, return_counts=True)
    return float(found[counts.argmax()])
