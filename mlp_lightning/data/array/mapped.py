"""Rows of a .npy file that stay on disk: those asked for are read, converted and moved to the device."""

import copy
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlp_lightning.data.array.preprocessing import is_divided

# Rows that are copied at a time, so that they are still in the processor's cache when they are put in their place.
BLOCK = 256
# Rows are asked for ahead of their reading where at least this share of the file between them is wanted.
DENSE = 1 / 32
# Of the budget, for one window of rows: one is trained on, one is being read, and the last minibatch of the one
# before may still be held.
WINDOW_SHARE = 1 / 4


class MappedRows:
    """``(N, D)`` in a file, to stand where a tensor of the same values would: it is indexed by rows.

    Rows are read in the order of the file, whatever order they are asked for in: of a large part of them that is one
    pass over the file in place of a jump for each.

    Args:
        path: a .npy file of ``(M, …)`` numbers.
        budget: bytes of memory that windows of rows may take in all.
        divisor: of whole numbers, as ``is_divided`` takes it.
        rows: the N rows that belong to it, in their order; None for all.
    """

    def __init__(self, path: Path, budget: float, divisor: int | None = None, rows: Tensor | None = None) -> None:
        self.path, self.budget, self.divisor = path, budget, divisor
        self.array = self._opened()
        self._rows = np.arange(len(self.array)) if rows is None else rows.numpy()
        self.shape = (len(self._rows), math.prod(self.array.shape[1:]))
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def _opened(self) -> NDArray:
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self._rows)

    # A copy in another process opens the file itself: numpy would pickle its contents.
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.array = self._opened()

    @property
    def window(self) -> int:
        """How many rows may be held at a time, at least 1."""
        return max(1, int(self.budget * WINDOW_SHARE / (4 * self.shape[1])))

    def subset(self, rows: Tensor) -> "MappedRows":
        """Some of the rows, in that order."""
        part = copy.copy(self)
        part._rows = self._rows[rows.numpy()]
        part.shape = (len(part._rows), self.shape[1])
        return part

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "MappedRows":
        """The same rows, which come as tensors of that device and dtype."""
        part = copy.copy(self)
        part.device, part.dtype = torch.device(device or self.device), dtype or self.dtype
        return part

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Rows of a slice, or of indices ``(B,)``."""
        index = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows
        return self.index_select(0, index)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Rows ``(B, D)`` in the order of ``index``, the only ``dim`` being 0."""
        rows = self._rows[index.cpu().numpy()]
        order = np.argsort(rows)
        rows = rows[order]
        x = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        self._announce(rows[:BLOCK])
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            self._announce(rows[start + BLOCK : start + 2 * BLOCK])
            x[order[block]] = as_features(self.array[rows[block]], self.divisor)
        return torch.from_numpy(x).to(device=self.device, dtype=self.dtype)

    def _announce(self, rows: NDArray) -> None:
        """Let the system read ahead from the first to the last of some rows, if they lie close together."""
        mapping = getattr(self.array, "_mmap", None)
        if mapping is None or not len(rows) or not hasattr(mmap, "MADV_WILLNEED"):
            return
        span = int(rows[-1] - rows[0]) + 1
        if len(rows) >= DENSE * span:
            row_bytes = self.array.nbytes // len(self.array)
            # The mapping begins with the file's header, or less before the array.
            start = len(mapping) - self.array.nbytes + int(rows[0]) * row_bytes
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            mapping.madvise(mmap.MADV_WILLNEED, first, start + span * row_bytes - first)


Rows = Tensor | MappedRows


def as_features(array: NDArray, divisor: int | None = None) -> NDArray[np.float32]:
    """Numbers ``(N, …)`` as the network takes them, ``(N, D)``: whole numbers divided as ``is_divided`` says."""
    # What is too large becomes infinite, as whoever checks the values will find.
    with np.errstate(over="ignore"):
        flat = array.reshape(len(array), math.prod(array.shape[1:])).astype(np.float32)
    return flat / np.float32(255) if is_divided(array.dtype, divisor) else flat
