"""The linear layer of ``linear`` in C, for processors: products of torch's own BLAS, and what is around them, in one.

A product here is the very call that ``torch.mm`` makes. Saved are the passes over memory before and after it, each of
which costs a small network as much as the product of a layer.
"""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.engines.native.library import function_of_torch, library
from mlp_lightning.engines.passes import GRADIENT, LinearStep

NO_CLAMP = -float("inf")

POINTER, SIZE, NUMBER, COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int


class NativeLinear:
    """``layers.c`` on tensors that must be contiguous float32 on the CPU, and of shapes that fit: nobody checks.

    Args:
        functions: the library.
        sgemm: BLAS's function.
    """

    def __init__(self, functions: ctypes.CDLL, sgemm: ctypes.c_void_p) -> None:
        self.sgemm = sgemm
        self._forward, self._backward_input = functions.linear_forward, functions.linear_backward_input
        self._backward, self._relu_backward = functions.linear_backward, functions.relu_backward
        self._forward.argtypes = [*[POINTER] * 5, *[SIZE] * 3, NUMBER, COUNT]
        self._backward_input.argtypes = [*[POINTER] * 4, *[SIZE] * 3]
        self._backward.argtypes = [*[POINTER] * 5, *[SIZE] * 3, *[NUMBER] * 3, COUNT]
        self._relu_backward.argtypes = [POINTER, POINTER, SIZE, COUNT]
        for function in (self._forward, self._backward_input, self._backward, self._relu_backward):
            function.restype = None

    def __reduce__(self) -> tuple[Any, ...]:
        return native_linear, ()

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, lower: float | None = None) -> Tensor:
        """Z = X Wᵀ + b ``(B, H)``, in ``out``, clamped from below at ``lower``: with 0 it is relu(Z)."""
        pointers = (x.data_ptr(), weight.data_ptr(), bias.data_ptr(), out.data_ptr())
        fan_out, fan_in = weight.shape
        lower = NO_CLAMP if lower is None else lower
        self._forward(self.sgemm, *pointers, x.shape[0], fan_in, fan_out, lower, torch.get_num_threads())
        return out

    def backward_input(self, dz: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """dX = dZ W ``(B, D)``, in ``out``."""
        fan_out, fan_in = weight.shape
        self._backward_input(self.sgemm, dz.data_ptr(), weight.data_ptr(), out.data_ptr(), dz.shape[0], fan_in, fan_out)
        return out

    def backward(
        self,
        dz: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        step: LinearStep = GRADIENT,
    ) -> None:
        """W ← beta W + alpha dZᵀ X and b ← bias_beta b + alpha Σ_i dZ_i; with beta 0, W may hold anything before."""
        pointers = (dz.data_ptr(), x.data_ptr(), weight.data_ptr(), bias.data_ptr())
        fan_out, fan_in = weight.shape
        threads = torch.get_num_threads()
        self._backward(self.sgemm, *pointers, x.shape[0], fan_in, fan_out, *step, threads)

    def relu_backward_(self, da: Tensor, a: Tensor) -> Tensor:
        """dZ = dA where A > 0, else 0, in dA."""
        self._relu_backward(da.data_ptr(), a.data_ptr(), da.numel(), torch.get_num_threads())
        return da


@functools.cache
def native_linear() -> NativeLinear | None:
    """The functions, or None without a compiler, or a BLAS with which they do what ``torch.mm`` does."""
    functions, sgemm = library(), function_of_torch("sgemm_")
    if functions is None or sgemm is None:
        return None
    linear = NativeLinear(functions, sgemm)
    x, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    z = linear.forward(x, weight, torch.zeros(4), torch.empty(2, 4))
    return linear if torch.equal(z, x @ weight.t()) else None
