"""Memory of a ReLU network's passes in C, for minibatches of one size, from a pool."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlp_lightning.engines.torch.buffers import BufferPool

# Of mixed precision's memory: rows and columns are a multiple of TILE, and rows of z and dz some entries further apart.
TILE, GAP = 32, 16
# Of float32's, to skip zeros: pixels side by side, samples of a word of bits, and features of a block of W'.
QUAD, GROUP, UNIT = 4, 64, 64


class ChainMemory(NamedTuple):
    """Memory of a minibatch, a tensor ``(B, H)`` a layer.

    In mixed precision there are also operands of products: each layer's input and, twice, its dZ.
    """

    z: Sequence[Tensor]
    dz: Sequence[Tensor]
    input: Sequence[Tensor] = ()
    dz_rows: Sequence[Tensor] = ()
    dz_columns: Sequence[Tensor] = ()


class SparseMemory(NamedTuple):
    """A layer's memory to skip zeros of its input: W', and bits of where so many features are not all 0."""

    weight: Tensor
    bits: Tensor
    quad: int


def mixed_memory(pool: BufferPool, rows: int, sizes: Sequence[int]) -> ChainMemory:
    """Memory of a minibatch in mixed precision: transposed but for the logits, and in tiles, as ``passes_bf16.c`` says.

    Args:
        pool: whose memory it is.
        rows: B.
        sizes: of the layers, input and logits included.
    """
    samples, inputs, *widths = (-(-n // TILE) * TILE for n in (rows, *sizes))

    def tiles(kind: str, widths: Sequence[int]) -> list[Tensor]:
        return pool.rows(kind, samples, widths, torch.bfloat16)

    z = pool.rows("z of tiles", samples + GAP, widths[:-1], torch.float32)
    return ChainMemory(
        z=[*z, *pool.rows("logits of tiles", rows, sizes[-1:], torch.float32)],
        dz=pool.rows("dz of tiles", samples + GAP, widths, torch.float32),
        input=tiles("tiles of inputs", [inputs, *widths[:-1]]),
        dz_rows=tiles("tiles of rows of dz", widths),
        dz_columns=tiles("tiles of columns of dz", widths),
    )


def sparse_memory(pool: BufferPool, rows: int, sizes: Sequence[int]) -> list[SparseMemory | None]:
    """Memory to skip the zeros of each layer's input, as ``sparse_input.h`` says; None for those that never do.

    These are a first layer whose features are no whole quads, and later ones that have less than a block of features.

    Args:
        pool: whose memory it is.
        rows: B.
        sizes: of the layers, input and logits included.
    """
    memory: list[SparseMemory | None] = []
    for k, (width, features) in enumerate(itertools.pairwise(sizes)):
        quad = 1 if k else QUAD
        if width % quad or (k and features < UNIT):
            memory.append(None)
            continue
        blocks, quads, groups = -(-features // UNIT), width // quad, -(-rows // GROUP)
        (transposed,) = pool.rows(f"transposed weight of layer {k}", blocks, [width * UNIT], torch.float32)
        (bits,) = pool.rows(f"bits of layer {k}", groups, [quads], torch.int64)
        memory.append(SparseMemory(transposed, bits, quad))
    return memory
