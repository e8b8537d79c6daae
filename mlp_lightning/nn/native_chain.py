"""The passes of a ReLU network in C, for processors: all layers in one call, without Python between them.

In mixed precision operands are rounded to bfloat16, whose products are summed up in float32; all else is float32.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.native import library, shares_threads
from mlp_lightning.nn.buffers import BufferPool
from mlp_lightning.nn.flat_storage import Layer
from mlp_lightning.nn.native_linear import COUNT, NUMBER, POINTER, SIZE, native_linear

# Of mixed precision's memory: rows and columns are a multiple of TILE, and rows of z and dz some entries further apart.
TILE, GAP = 32, 16
# Of float32's, to pass over zeros: features side by side, and samples of a word of bits.
QUAD, GROUP = 4, 64


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
    """Memory to pass over zeros: W' of the first layer, and bits of where four features are not all 0."""

    weight: Tensor
    bits: Tensor
    # For it to pay.
    enough_rows: int


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


def sparse_memory(pool: BufferPool, rows: int, sizes: Sequence[int], enough_rows: int) -> SparseMemory | None:
    """Memory to pass over the zeros of a minibatch of float32, as ``sparse_input.h`` says; None where it does not.

    Args:
        pool: whose memory it is.
        rows: B.
        sizes: of the layers, input and logits included.
        enough_rows: for it to pay.
    """
    if sizes[0] % QUAD:
        return None
    quads, groups = sizes[0] // QUAD, -(-rows // GROUP)
    (turned,) = pool.rows("first layer, transposed", sizes[0], [-(-sizes[1] // GROUP) * GROUP], torch.float32)
    (bits,) = pool.rows("bits of quads", groups, [quads], torch.int64)
    return SparseMemory(turned, bits, enough_rows)


class _Layer(ctypes.Structure):
    """``layer_t`` of ``passes.h``."""

    _fields_ = (
        *((name, POINTER) for name in (*Layer._fields, *ChainMemory._fields)),
        ("fan_in", SIZE),
        ("fan_out", SIZE),
    )


class _Descent(ctypes.Structure):
    """``descent_t`` of ``native.h``."""

    _fields_ = (
        ("descends", COUNT),
        *((name, NUMBER) for name in ("share", "keep", "keep_bias")),
        ("adam", POINTER),
        ("rate", NUMBER),
        ("eps", NUMBER),
    )


class _Turned(ctypes.Structure):
    """``turned_t`` of ``sparse_input.h``."""

    _fields_ = (("weight", POINTER), ("stays", COUNT), ("newest", COUNT))


class _Sparse(ctypes.Structure):
    """``sparse_t`` of ``sparse_input.h``."""

    _fields_ = (
        *((name, POINTER) for name in ("own", "turned", "bits")),
        ("enough_rows", SIZE),
        ("is_sparse", COUNT),
    )


class _Chain(ctypes.Structure):
    """``chain_t`` of ``native.h``."""

    _fields_ = (("product", POINTER), ("layers", POINTER), ("count", COUNT), ("sparse", POINTER))


class NativeChain:
    """Linear layers with ReLU between them, and memory for minibatches of one size; both are kept alive.

    Args:
        layers: of the network, float32.
        memory: for minibatches of one size; with operands in bfloat16 for mixed precision.
        sparse: to pass over the zeros of X in float32; None not to.

    Raises:
        ValueError: ``has_chain`` is false.
    """

    def __init__(self, layers: Sequence[Layer], memory: ChainMemory, sparse: SparseMemory | None = None) -> None:
        self._is_mixed = bool(memory.input)
        functions, product = library(), _product(self._is_mixed)
        if functions is None or product is None:
            raise ValueError("there are no passes in C on this machine")
        self.memory, self._layers, self._sparse = memory, layers, sparse
        if self._is_mixed:
            self._forward, self._backward = functions.forward_pass_bf16, functions.backward_pass_bf16
        else:
            self._forward, self._backward = functions.forward_pass, functions.backward_pass
        self._forward.argtypes = [*[POINTER] * 2, SIZE, COUNT]
        self._backward.argtypes = [*[POINTER] * 3, SIZE, POINTER, COUNT]
        self._forward.restype, self._backward.restype = None, ctypes.c_double
        self._structs = (_Layer * len(layers))()
        kinds = {name: tensors for name, tensors in memory._asdict().items() if tensors}
        for k, (struct, layer) in enumerate(zip(self._structs, layers, strict=True)):
            struct.fan_out, struct.fan_in = layer.weight.shape
            for name, tensor in {**layer._asdict(), **{name: tensors[k] for name, tensors in kinds.items()}}.items():
                setattr(struct, name, tensor.data_ptr())
        self._chain = _Chain(product, ctypes.addressof(self._structs), len(layers), None)
        if sparse is not None:
            self._turned = _Turned(sparse.weight.data_ptr())
            turned = ctypes.addressof(self._turned)
            self._of_zeros = _Sparse(turned, turned, sparse.bits.data_ptr(), sparse.enough_rows)
            self._chain.sparse = ctypes.addressof(self._of_zeros)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of X ``(B, D)``."""
        self._x = x
        threads = torch.get_num_threads()
        self._forward(ctypes.byref(self._chain), x.data_ptr(), x.shape[0], threads)
        return self.memory.z[-1]

    @property
    def activations(self) -> list[Tensor]:
        """A ``(B, H)`` of each hidden layer, float32, as ``forward`` left it."""
        *z, _ = self.memory.z
        if not self._is_mixed:
            return z
        rows, widths = self._x.shape[0], [layer.bias.numel() for layer in self._layers[:-1]]
        return [a.view(a.shape[::-1])[:width, :rows].t() for a, width in zip(z, widths, strict=True)]

    def backward(
        self, dlogits: Tensor, *, descends: bool, share: float = 1.0, keep: float = 0.0, keep_bias: float = 0.0
    ) -> float:
        """``NativeLinear.backward`` of all layers, on the parameters if it ``descends``, else on the gradients.

        It may be called again after the same ``forward``, for the weights that this one had.

        Returns:
            The sum over all that it wrote of biases: not finite where a delta was not.
        """
        pointers, rows = (self._x.data_ptr(), dlogits.data_ptr()), self._x.shape[0]
        descent = ctypes.byref(_Descent(descends, share, keep, keep_bias))
        threads = torch.get_num_threads()
        total: float = self._backward(ctypes.byref(self._chain), *pointers, rows, descent, threads)
        return total

    @property
    def for_steps(self) -> tuple[Any, ...]:
        """The first arguments of ``make_steps`` in C."""
        passes = (ctypes.cast(self._forward, POINTER), ctypes.cast(self._backward, POINTER))
        return *passes, ctypes.addressof(self._chain)


def has_chain(*, is_mixed: bool) -> bool:
    """Whether there are such passes on this machine."""
    return _product(is_mixed) is not None


@functools.cache
def _product(is_mixed: bool) -> ctypes.c_void_p | None:
    """The matrix product that the passes call, which is torch's; in mixed precision they have one of their own."""
    functions = library()
    if functions is None or not shares_threads():
        return None
    if is_mixed:
        has_tiles = hasattr(functions, "may_use_tiles") and functions.may_use_tiles()
        return ctypes.c_void_p() if has_tiles else None
    linear = native_linear()
    return None if linear is None else linear.sgemm
