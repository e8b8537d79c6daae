"""The passes of a ReLU network in C, for processors: all layers in one call, without Python between them.

In mixed precision operands are rounded to bfloat16, whose products are summed up in float32; all else is float32.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.engines.native.library import library, shares_threads
from mlp_lightning.engines.native.linear import COUNT, NUMBER, POINTER, SIZE, native_linear
from mlp_lightning.engines.native.memory import ChainMemory, SparseMemory
from mlp_lightning.engines.passes import GRADIENT, LinearStep
from mlp_lightning.nn.flat_storage import Layer


class _Layer(ctypes.Structure):
    """``layer_t`` of ``passes.h``."""

    _fields_ = (
        *((name, POINTER) for name in (*Layer._fields, *ChainMemory._fields)),
        ("fan_in", SIZE),
        ("fan_out", SIZE),
    )


class _Update(ctypes.Structure):
    """``update_t`` of ``native.h``."""

    _fields_ = (
        ("updates", COUNT),
        *((name, NUMBER) for name in ("alpha", "beta", "bias_beta")),
        ("adam", POINTER),
        ("rate", NUMBER),
        ("eps", NUMBER),
    )


class _Transposed(ctypes.Structure):
    """``transposed_t`` of ``sparse_input.h``."""

    _fields_ = (("weight", POINTER), ("stays", COUNT), ("newest", COUNT))


class _Sparse(ctypes.Structure):
    """``sparse_t`` of ``sparse_input.h``."""

    _fields_ = (
        *((name, POINTER) for name in ("own", "transposed", "bits")),
        *((name, SIZE) for name in ("quad", "enough_rows")),
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
        sparse: of each layer, to skip the zeros of its input in float32.
        enough_rows: for it to pay.

    Raises:
        ValueError: ``has_chain`` is false.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        memory: ChainMemory,
        sparse: Sequence[SparseMemory | None] = (),
        enough_rows: int = 0,
    ) -> None:
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
        if not self._is_mixed:
            self._transposed, self._of_zeros = (_Transposed * len(layers))(), (_Sparse * len(layers))()
            self._chain.sparse = ctypes.addressof(self._of_zeros)
            for own, struct, of_layer in zip(self._transposed, self._of_zeros, sparse, strict=True):
                struct.own = struct.transposed = ctypes.addressof(own)
                if of_layer is not None:
                    own.weight, struct.bits = of_layer.weight.data_ptr(), of_layer.bits.data_ptr()
                    struct.quad, struct.enough_rows = of_layer.quad, enough_rows

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

    def backward(self, dlogits: Tensor, step: LinearStep = GRADIENT, *, updates: bool = False) -> float:
        """``NativeLinear.backward`` of all layers, on the parameters if it ``updates`` them, else on the gradients.

        It may be called again after the same ``forward``, for the weights that this one had.

        Returns:
            The sum over all that it wrote of biases: not finite where a delta was not.
        """
        pointers, rows = (self._x.data_ptr(), dlogits.data_ptr()), self._x.shape[0]
        update = ctypes.byref(_Update(updates, *step))
        threads = torch.get_num_threads()
        total: float = self._backward(ctypes.byref(self._chain), *pointers, rows, update, threads)
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
