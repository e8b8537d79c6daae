"""One comparison with an oracle, the tables of them, and the line that closes them all."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlp_lightning.training.callbacks.tables import format_table


class Row(NamedTuple):
    """One comparison: the largest |ours − oracle|, the largest |oracle|, and the largest error that is allowed."""

    name: str
    shape: str
    error: float
    largest: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is within what is allowed; NaN never is, nor anything under an infinite allowance."""
        return self.error <= self.allowed < math.inf

    @property
    def relative_error(self) -> float:
        """max |ours − oracle| / max |oracle|."""
        return _relative(self.error, self.largest)

    @property
    def tolerance(self) -> float:
        """What is allowed, over max |oracle|."""
        return _relative(self.allowed, self.largest)

    @property
    def strain(self) -> float:
        """Error over allowance: the larger, the worse; infinite if the comparison failed without a number."""
        ratio = self.error / self.allowed if self.allowed else _relative(self.error, 0.0)
        return math.inf if math.isnan(ratio) else ratio


class Table(NamedTuple):
    """Comparisons of one kind: ``part`` names them in a word or two, the caption says what is compared and how."""

    part: str
    caption: str
    rows: list[Row]


def compare(name: str, ours: Tensor, oracle: Tensor, allowed: float | Tensor) -> Row:
    """Compare entry by entry in float64; tensors of different shapes differ infinitely.

    Args:
        name: of the row.
        ours: of any dtype.
        oracle: in float64.
        allowed: for all entries, or for each its own, in the oracle's shape: then the row is about the entry that comes
            closest to its allowance or exceeds it most.
    """
    shape = " × ".join(str(size) for size in oracle.shape) or "1"
    largest = _largest(oracle)
    if ours.shape != oracle.shape:
        return Row(name, shape, math.inf, largest, float(torch.as_tensor(allowed).max()))
    errors = (ours.to(torch.float64) - oracle).abs()
    if not isinstance(allowed, Tensor):
        return Row(name, shape, float(errors.max()), largest, allowed)
    # 0 of 0 is no error; any other strain that is not a number is the worst of all.
    strain = torch.where(errors == 0, 0.0, errors / allowed).nan_to_num(math.inf)
    entry = int(torch.where(allowed.isfinite(), strain, math.inf).argmax())
    return Row(name, shape, float(errors.view(-1)[entry]), largest, float(allowed.view(-1)[entry]))


def worst(rows: Sequence[Row], name: str) -> Row:
    """The row that comes closest to its allowance or exceeds it most, under another name."""
    return max(rows, key=lambda row: row.strain)._replace(name=name)


def render(table: Table) -> str:
    """The caption and one line a comparison."""
    head = ("tensor", "shape", "largest error", "relative error", "tolerance", "verdict")
    lines = [
        (
            row.name,
            row.shape,
            *(f"{number:.1e}" for number in (row.error, row.relative_error, row.tolerance)),
            "ok" if row.passed else "WRONG",
        )
        for row in table.rows
    ]
    return f"{table.caption}\n\n{format_table([head, *lines])}\n"


def closing_line(tables: Sequence[Table]) -> str:
    """How many checks passed, or which failed."""
    count = sum(len(table.rows) for table in tables)
    failed = [f"{row.name} ({table.part})" for table in tables for row in table.rows if not row.passed]
    if not failed:
        return f"all {count} checks passed"
    return f"{len(failed)} of {count} checks FAILED: {', '.join(failed)}"


def dtype_name(dtype: torch.dtype) -> str:
    """``float32``, without the module."""
    return str(dtype).removeprefix("torch.")


def _largest(tensor: Tensor) -> float:
    # max over a tensor with NaN is NaN, which Python's max would lose.
    return float(tensor.abs().max())


def _relative(amount: float, largest: float) -> float:
    if largest:
        return amount / largest
    return math.inf if amount else 0.0
