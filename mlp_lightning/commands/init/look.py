"""What ``init`` sees in data: their size, their classes, and which options they need to be read at all."""

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.images.picture_files import find_pictures
from mlp_lightning.data.images.pictures import picture_size
from mlp_lightning.data.module import DataModule
from mlp_lightning.data.preprocessing import ArrayPreprocessing, CategoricalColumn, TablePreprocessing
from mlp_lightning.data.sources.csv_file import table_parts
from mlp_lightning.data.sources.options import existing
from mlp_lightning.data.sources.own import OWN
from mlp_lightning.data.tabular.cells import is_missing, number
from mlp_lightning.data.tabular.column_kinds import Kind, Numbers, Texts
from mlp_lightning.data.tabular.table_learning import ENOUGH_ROWS, UNNAMED, column_of, kinds_of, named
from mlp_lightning.data.tabular.tables import read_table
from mlp_lightning.errors import UserError

# Pictures with more pixels a side are scaled down: a network's first layer has a weight for each pixel and unit.
LONGEST_SIDE = 64
# From fewer samples than this, a tenth of them would be too few to validate on.
FEW = 1000
# A column with at most so many different whole numbers may hold codes.
FEW_CODES = 10
MOST_NAMED = 12


@dataclass(frozen=True)
class Sight:
    """Data that have been read once.

    Args:
        options: of ``data.``, those given and those that the data need.
        reasons: by option, what a comment says of it.
        data: as they were read with those options.
        counts: samples of each class ``(K,)`` by part: train, val, test.
        seen: further lines of what was seen.
    """

    options: dict[str, Any]
    reasons: dict[str, str]
    data: Dataset
    counts: dict[str, Tensor]
    seen: list[str]

    @property
    def root(self) -> str | None:
        """Where the user's own files are."""
        return self.options.get("root") if self.options["dataset"] in OWN else None

    @property
    def n_train(self) -> int:
        """Samples that train."""
        return int(self.counts["train"].sum())

    @property
    def summary(self) -> str:
        """Samples, features and classes in a line."""
        parts = {"train": "to train", "val": "to validate", "test": "to test"}
        numbers = (f"{int(self.counts[name].sum()):,} {words}" for name, words in parts.items())
        return f"{', '.join(numbers)}; {self.data.n_features:,} features, {self.data.n_classes} classes"


def look(given: dict[str, Any]) -> Sight:
    """Read data with the options that were given, and find those that they need besides.

    Raises:
        UserError: the data cannot be read, or there is nothing to train on.
    """
    options, reasons, seen = dict(given), dict[str, str](), list[str]()
    for option in ("root", "test_path"):
        # An empty name would become the folder in which the command is given.
        if options.get(option):
            options[option] = str(Path(options[option]).expanduser().absolute())
    # What data.root and data.dataset cannot be is told before anything is read.
    DataModule(**options)
    if options["dataset"] == "csv":
        _look_at_table(options, reasons, seen)
    if options["dataset"] == "image_folder":
        _look_at_pictures(options, reasons)
    module = DataModule(**options)
    n = len(module.data.train_y)
    if n < FEW and module.data.val_y is None and not {"validation", "validation_size"} & given.keys():
        options["validation_size"] = 0.2
        reasons["validation_size"] = f"a fifth of {n:,} samples: a tenth would be too few to tell accuracies apart"
        module = DataModule(**options)
    data = module.data
    seen += _features(data)
    return Sight(options, reasons, data, module.part_counts, seen)


def _look_at_table(options: dict[str, Any], reasons: dict[str, str], seen: list[str]) -> None:
    """What a table's columns need: which to leave out, what to do with missing cells and new categories."""
    root = existing(options["root"], "root")
    table = read_table(table_parts(root)["train"] if root.is_dir() else root)
    label = column_of(table, "" if options.get("label") is None else options["label"]) or ""
    coded, ignored = (named(options.get(name, ()), name, table, label) for name in ("categorical", "ignore"))
    names = [name for name in table if name != label and name not in ignored]
    kinds = kinds_of(table, [name for name in names if name not in coded])
    if "ignore" not in options:
        left_out = [name for name, kind in kinds.items() if _tells_rows(name, table[name], kind)]
        if left_out and len(left_out) < len(names):
            options["ignore"] = left_out
            reasons["ignore"] = "different in every row, or nearly: they name the row and say nothing of its class"
            names = [name for name in names if name not in left_out]
    missing = {name: n for name in names if (n := sum(map(is_missing, table[name])))}
    if missing:
        seen.append(f"missing values: {_named([f'{name} {n}' for name, n in missing.items()])}")
        if "missing" not in options:
            options["missing"] = "mean"
            reasons["missing"] = (
                "numbers that are missing become their column's mean, which is 0 once standardised, and texts the most "
                "frequent one; median and most_frequent are the others, error refuses them"
            )
    else:
        seen.append("missing values: none")
    if "unknown" not in options and any(isinstance(kinds.get(name, Texts()), Texts) for name in names):
        options["unknown"] = "zero"
        reasons["unknown"] = "a text that the training part has not counts as none of those it has; error refuses it"
    codes = [name for name in names if isinstance(kinds.get(name), Numbers) and _may_be_codes(table[name])]
    if codes:
        seen.append(f"few whole numbers, taken as amounts (data.categorical if they are codes): {_named(codes)}")


def _tells_rows(name: str, cells: Sequence[str], kind: Kind) -> bool:
    """Whether a column counts the rows, is an index that pandas has saved, or holds texts that hardly ever repeat."""
    if UNNAMED.fullmatch(name):
        return True
    if len(cells) < ENOUGH_ROWS:
        return False
    if isinstance(kind, Numbers):
        values = [number(cell) for cell in cells]
        first = values[0]
        return first is not None and all(value == first + k for k, value in enumerate(values))
    return isinstance(kind, Texts) and 2 * len(set(cells)) > len(cells)


def _may_be_codes(cells: Sequence[str]) -> bool:
    values = {number(cell) for cell in cells if not is_missing(cell)}
    whole = all(value is not None and value == value // 1 for value in values)
    return whole and 2 < len(values) <= FEW_CODES < len(cells) // 5


def _look_at_pictures(options: dict[str, Any], reasons: dict[str, str]) -> None:
    """The size that pictures of several sizes, or large ones, are scaled to."""
    if options.get("image_size") is not None:
        return
    folders = [Path(options[option]) for option in ("root", "test_path") if options.get(option) is not None]
    sizes = []
    for file in (file for folder in folders if folder.is_dir() for file in find_pictures(folder).files):
        # What cannot be read is for the reader to refuse, or to leave out.
        with suppress(UserError):
            sizes.append(picture_size(file)[:2])
    if not sizes:
        return
    height, width = (int(statistics.median(side)) for side in zip(*sizes, strict=True))
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    if len(set(sizes)) == 1 and scale == 1:
        return
    options["image_size"] = [max(1, round(height * scale)), max(1, round(width * scale))]
    found = "one size" if len(set(sizes)) == 1 else f"{len(set(sizes))} sizes, the median"
    reasons["image_size"] = (
        f"the pictures have {found} {height} × {width}; all are scaled to this, at most {LONGEST_SIDE} pixels a side"
    )


def _features(data: Dataset) -> list[str]:
    """What a sample is made of."""
    kind = data.preprocessing
    if isinstance(kind, TablePreprocessing):
        texts = [column for column in kind.columns if isinstance(column, CategoricalColumn)]
        lines = [
            f"columns: {len(kind.columns) - len(texts)} of numbers, standardised to mean 0 and deviation 1; "
            f"{len(texts)} of texts, one-hot; label {kind.label}"
        ]
        if texts:
            lines.append(f"texts: {_named([f'{column.name} {len(column.categories)}' for column in texts])}")
        return lines
    if isinstance(kind, ArrayPreprocessing):
        return ["features: numbers as the arrays hold them"]
    return [f"pictures: {' × '.join(map(str, data.image_shape))} pixels, from 0 to 1"]


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f", … ({len(names)})" if len(names) > MOST_NAMED else "")
