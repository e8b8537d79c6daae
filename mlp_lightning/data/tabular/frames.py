"""Columns of a table by their names, whether it comes from a file, a dict or a frame of pandas or another library."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlp_lightning.data.tabular.cells import column_name
from mlp_lightning.errors import UserError


class Columns:
    """The cells of some columns, as many in each.

    Args:
        frame: cells by column; names are compared as ``column_name`` makes them.
        file: that errors name; empty for none.
    """

    def __init__(self, frame: Mapping[str, Sequence[Any]], file: str = "") -> None:
        self._frame = frame
        self._called = file or "the table"
        self._n_rows: dict[str, int] = {}
        self._keys: dict[str, list[Any]] = {}
        # Iterating over a frame gives its columns' names in pandas, but not in every library.
        for key in getattr(frame, "columns", frame):
            self._keys.setdefault(column_name(key), []).append(key)

    def __contains__(self, name: str) -> bool:
        return column_name(name) in self._keys

    def __getitem__(self, name: str) -> Sequence[Any]:
        """A list, or an array that counts from 0; raises UserError for a column that is not there or none."""
        keys = self._keys.get(column_name(name), [])
        if len(keys) != 1:
            wrong = f"{len(keys)} columns {name!r}" if keys else f"no column {name!r}, which the model was trained on"
            raise UserError(f"{self._called} has {wrong}")
        cells = _listed(self._frame[keys[0]])
        if cells is None:
            raise UserError(f"{self._called}, column {name!r}: must be a list or an array with a cell for each row")
        (first, n), *_ = [*self._n_rows.items(), (name, len(cells))]
        if len(cells) != n:
            raise UserError(f"{self._called}: column {name!r} has {len(cells)} rows, {first!r} {n}, must have as many")
        self._n_rows[name] = len(cells)
        return cells


def _listed(column: Any) -> Sequence[Any] | None:
    if isinstance(column, list | tuple):
        return column
    if isinstance(column, np.ma.MaskedArray):
        return np.ma.filled(column.astype(object), None).tolist()
    array = np.asarray(column)
    if array.ndim != 1:
        return None
    if array.dtype.kind == "M":
        # As pandas writes them: without a time of day if none has one.
        days = array.astype("datetime64[D]")
        whole = bool(((days == array) | np.isnat(array)).all())
        return [str(day) for day in days] if whole else [str(time).replace("T", " ") for time in array.astype("M8[s]")]
    return array  # type: ignore[return-value]
