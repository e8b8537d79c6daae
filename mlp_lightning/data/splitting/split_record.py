"""Which samples trained, validated and tested: kept in a checkpoint, and found again in files that may have changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.array.mapped import MappedRows, Rows
from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.splitting.row_keys import find_rows, row_keys

TRAIN, VAL, TEST = 0, 1, 2
PARTS = ("training", "validation", "test")


class SplitRecord(NamedTuple):
    """The samples of ``data.root`` in the order of the training, by their keys.

    Args:
        keys: from ``row_keys``, ``(N,)``, int64.
        parts: what each is for, ``(N,)``, uint8: 0 trains, 1 validates, 2 tests.
        test: keys of a test set with files of its own ``(M,)``; empty where the test samples are among the N.
    """

    keys: Tensor
    parts: Tensor
    test: Tensor

    def of(self, part: int) -> Tensor:
        """The keys of one part."""
        return self.keys[self.parts == part]

    def equals(self, other: "SplitRecord") -> bool:
        """Whether the other is the same to the last row."""
        return all(torch.equal(own, others) for own, others in zip(self, other, strict=True))

    def to_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return self._asdict()


def split_record(value: Any) -> SplitRecord:
    """From ``SplitRecord.to_dict()``; raises TypeError for what is none."""
    if not isinstance(value, Mapping) or set(value) != set(SplitRecord._fields):
        raise TypeError("its rows are no record of a split")
    record = SplitRecord(**value)
    kinds = {"keys": torch.int64, "parts": torch.uint8, "test": torch.int64}
    for name, dtype in kinds.items():
        tensor = value[name]
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.ndim != 1:
            raise TypeError(f"its rows' {name} are no {dtype} of one dimension")
    if len(record.keys) != len(record.parts) or bool((record.parts > TEST).any()):
        raise TypeError("its rows' parts do not fit their keys")
    return record


def first_record(data: Dataset, validates: Tensor) -> SplitRecord:
    """Of a training that begins.

    Args:
        data: with ``test_rows`` where its test samples were set apart.
        validates: the indices of the training samples that validate.
    """
    train, test = row_keys(data.train_x, data.train_y), row_keys(data.test_x, data.test_y)
    parts = torch.full_like(train, TRAIN, dtype=torch.uint8)
    parts[validates] = VAL
    if data.test_rows is None:
        return SplitRecord(train, parts, test)
    tests = torch.zeros(len(train) + len(test), dtype=torch.bool)
    tests[data.test_rows] = True
    keys, all_parts = torch.empty(len(tests), dtype=torch.int64), torch.full((len(tests),), TEST, dtype=torch.uint8)
    keys[tests], keys[~tests] = test, train
    all_parts[~tests] = parts
    return SplitRecord(keys, all_parts, torch.empty(0, dtype=torch.int64))


class Recognised(NamedTuple):
    """Files read again: who is who.

    Args:
        data: the training samples in the order of the training, those that it did not know at the end, and the test
            samples in theirs.
        validates: the indices of the training samples that validate, ascending.
        record: of the checkpoint, and what is new.
        slots: where in ``record`` the training samples stand.
        gone: how many rows of each part there are no more.
        known: how many there were.
        new: rows that the checkpoint did not know.
        copies: further copies of rows that validate or test, which are left out.
        moved: whether the rows stand in another order.
        has_test_files: whether the test samples have files of their own.
    """

    data: Dataset
    validates: Tensor
    record: SplitRecord
    slots: Tensor
    gone: tuple[int, ...]
    known: tuple[int, ...]
    new: int
    copies: int
    moved: bool
    has_test_files: bool


def recognise(data: Dataset, record: SplitRecord) -> Recognised:
    """Find a checkpoint's samples again.

    Args:
        data: all samples of ``data.root`` as training samples, in the order of the file; test samples only if they have
            files of their own.
        record: the checkpoint's.
    """
    keys = row_keys(data.train_x, data.train_y)
    places = find_rows(record.keys, keys)
    there = places >= 0
    unknown = torch.ones(len(keys), dtype=torch.bool)
    unknown[places[there]] = False
    new = unknown.nonzero().squeeze(1)
    # A copy of a test row that trained would let the test leak.
    held = torch.cat([record.keys[record.parts != TRAIN], record.test])
    copies = torch.isin(keys[new], held)
    new = new[~copies]
    everything = SplitRecord(
        torch.cat([record.keys, keys[new]]),
        torch.cat([record.parts, torch.full_like(new, TRAIN, dtype=torch.uint8)]),
        record.test,
    )
    places = torch.cat([places, new])
    slots = ((everything.parts != TEST) & (places >= 0)).nonzero().squeeze(1)
    rows, n = places[slots], len(keys)
    x, y = taken(data.train_x, rows, n), data.train_y[rows]
    test_x, test_y = data.test_x, data.test_y
    has_test_files = len(test_y) > 0
    if not has_test_files:
        test_rows = places[(everything.parts == TEST) & (places >= 0)]
        test_x, test_y = taken(data.train_x, test_rows, n), data.train_y[test_rows]
    parts = [record.parts == part for part in range(len(PARTS))]
    return Recognised(
        replace(data, train_x=x, train_y=y, test_x=test_x, test_y=test_y),
        validates=(everything.parts[slots] == VAL).nonzero().squeeze(1),
        record=everything,
        slots=slots,
        gone=tuple(int((part & ~there).sum()) for part in parts),
        known=tuple(int(part.sum()) for part in parts),
        new=len(new),
        copies=int(copies.sum()),
        moved=bool((places[: len(there)][there].diff() < 0).any()),
        has_test_files=has_test_files,
    )


def taken(x: Rows, rows: Tensor, n: int) -> Rows:
    """Rows of N samples; the samples themselves if that is all of them in their order."""
    if len(rows) == n and torch.equal(rows, torch.arange(n)):
        return x
    return x.subset(rows) if isinstance(x, MappedRows) else x[rows]
