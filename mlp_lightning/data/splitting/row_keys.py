"""Samples known by their content: a 64-bit key for each, made of the network's input and the class."""

from hashlib import blake2b

import torch
from torch import Tensor

from mlp_lightning.data.array.mapped import Rows

# Values that are read together from a file that may not fit into memory.
BLOCK_VALUES = 2**22
# Multiples of an odd number do not repeat modulo 2⁶⁴. Two numbers: a class and a repetition must not look alike.
_CLASS = 0x9E3779B97F4A7C15 - 2**64
_REPETITION = 0xC2B2AE3D27D4EB4F - 2**64


def row_keys(x: Rows, y: Tensor) -> Tensor:
    """The first 8 bytes of BLAKE2b of each row of ``x`` in float32, plus the class times an odd number modulo 2⁶⁴.

    A row keeps its key whatever its place in the file, and whatever number format or column order the file has.

    Args:
        x: samples ``(N, D)`` as the network takes them, in memory or in a file, which is read once, in blocks.
        y: their classes ``(N,)``, int64.

    Returns:
        Keys ``(N,)``, int64. Equal samples of one class have equal keys.
    """
    n, width = x.shape
    rows = max(1, BLOCK_VALUES // width)
    digests = bytearray()
    for first in range(0, n, rows):
        block = x[first : first + rows].contiguous().numpy().data.cast("B")
        size = 4 * width
        for start in range(0, len(block), size):
            digests += blake2b(block[start : start + size], digest_size=8).digest()
    keys = torch.frombuffer(digests, dtype=torch.int64) if n else torch.empty(0, dtype=torch.int64)
    return keys + (y + 1) * _CLASS


def find_rows(wanted: Tensor, keys: Tensor) -> Tensor:
    """The row of ``keys (N,)`` that each of ``wanted (M,)`` is, −1 for none; of equal keys the k-th is the k-th.

    Returns:
        Rows ``(M,)``, int64. No row stands twice.
    """
    if not len(keys):
        return torch.full_like(wanted, -1)
    numbered, order = _numbered(keys).sort()
    looked_for = _numbered(wanted)
    place = torch.searchsorted(numbered, looked_for).clamp(max=len(keys) - 1)
    return torch.where(numbered[place] == looked_for, order[place], -1)


def _numbered(keys: Tensor) -> Tensor:
    """Keys that are all different: each with how many equal ones stand before it."""
    n = len(keys)
    ordered, order = keys.sort(stable=True)
    place = torch.arange(n)
    begins = torch.ones(n, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    before = torch.empty(n, dtype=torch.int64)
    before[order] = place - torch.where(begins, place, 0).cummax(0).values
    return keys + before * _REPETITION
