"""The passes of a ReLU network in C, for processors: all layers in one call, without Python between them.

In mixed precision operands are rounded to bfloat16, whose products are summed up in float32; all else is float32.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.native import function_of_torch, library, shares_threads
from mlp_lightning.nn.flat_storage import Layer
from mlp_lightning.nn.native_linear import COUNT, NUMBER, POINTER, SIZE, native_linear


class ChainMemory(NamedTuple):
    """Memory of a minibatch, a tensor ``(B, H)`` a layer.

    In mixed precision there are also the operands of products, in bfloat16: W, A, dZ and ``x16 (B, D)``. Then ``dz`` of
    a hidden layer may be the memory of its ``z``.
    """

    z: Sequence[Tensor]
    dz: Sequence[Tensor]
    a16: Sequence[Tensor] = ()
    dz16: Sequence[Tensor] = ()
    x16: Tensor | None = None


class _Layer(ctypes.Structure):
    """``layer_t`` of ``passes.h``."""

    _fields_ = (
        *((name, POINTER) for name in ("weight", "bias", "dweight", "dbias", "z", "dz", "w", "a", "d")),
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


class NativeChain:
    """Linear layers with ReLU between them, and memory for minibatches of one size; both are kept alive.

    Args:
        layers: of the network, float32.
        memory: for minibatches of one size.
        rounded: in mixed precision the layers in bfloat16, whose weights each forward pass makes anew.

    Raises:
        ValueError: ``has_chain`` is false.
    """

    def __init__(self, layers: Sequence[Layer], memory: ChainMemory, rounded: Sequence[Layer] = ()) -> None:
        functions, product = library(), _product(bool(rounded))
        if functions is None or product is None:
            raise ValueError("there are no passes in C on this machine")
        self.memory, self._kept = memory, (layers, rounded)
        self._product, self._count = product, len(layers)
        if rounded:
            self._forward, self._backward = functions.forward_pass_bf16, functions.backward_pass_bf16
        else:
            self._forward, self._backward = functions.forward_pass, functions.backward_pass
        self._forward.argtypes = [*[POINTER] * 2, COUNT, *[POINTER] * 2, SIZE, COUNT]
        self._backward.argtypes = [*[POINTER] * 2, COUNT, *[POINTER] * 3, SIZE, POINTER, COUNT]
        self._forward.restype, self._backward.restype = None, ctypes.c_double
        self._x16 = None if memory.x16 is None else memory.x16.data_ptr()
        w = [layer.weight for layer in rounded or layers]
        a = [*memory.a16, memory.z[-1]] if rounded else memory.z
        operands = zip(w, a, memory.dz16 if rounded else memory.dz, strict=True)
        self._structs = (_Layer * self._count)()
        for struct, layer, z, dz, of_products in zip(self._structs, layers, memory.z, memory.dz, operands, strict=True):
            struct.fan_out, struct.fan_in = layer.weight.shape
            named = {**layer._asdict(), "z": z, "dz": dz, **dict(zip("wad", of_products, strict=True))}
            for name, tensor in named.items():
                setattr(struct, name, tensor.data_ptr())

    def forward(self, x: Tensor) -> Tensor:
        """The logits of X ``(B, D)``; what a hidden layer gives the next is left in ``z``, or in ``a16``."""
        self._x = x
        pointers = (x.data_ptr(), self._x16)
        self._forward(self._product, self._structs, self._count, *pointers, x.shape[0], torch.get_num_threads())
        return self.memory.z[-1]

    def backward(
        self, dlogits: Tensor, *, descends: bool, share: float = 1.0, keep: float = 0.0, keep_bias: float = 0.0
    ) -> float:
        """``NativeLinear.backward`` of all layers, on the parameters if it ``descends``, else on the gradients.

        It may be called again after the same ``forward``, for the weights that this one had.

        Returns:
            The sum over all that it wrote of biases: not finite where a delta was not.
        """
        pointers, rows = (self._x.data_ptr(), self._x16, dlogits.data_ptr()), self._x.shape[0]
        descent = ctypes.byref(_Descent(descends, share, keep, keep_bias))
        threads = torch.get_num_threads()
        total: float = self._backward(self._product, self._structs, self._count, *pointers, rows, descent, threads)
        return total

    @property
    def for_steps(self) -> tuple[Any, ...]:
        """The first arguments of ``make_steps`` in C."""
        passes = (ctypes.cast(self._forward, POINTER), ctypes.cast(self._backward, POINTER))
        return *passes, self._product, self._structs, self._count, self._x16


def has_chain(*, is_mixed: bool) -> bool:
    """Whether there are such passes on this machine."""
    return _product(is_mixed) is not None


@functools.cache
def _product(is_mixed: bool) -> ctypes.c_void_p | None:
    """The matrix product that the passes call; that of bfloat16 where the processor has it in hardware."""
    if not shares_threads():
        return None
    if not is_mixed:
        linear = native_linear()
        return None if linear is None else linear.sgemm
    return function_of_torch("gemm_bf16bf16f32_") if hasattr(library(), "forward_pass_bf16") else None
