"""Update rules in C, for processors."""

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mlp_lightning.engines.native.library import library

AdamStep = Callable[[Tensor, Tensor, Tensor, Tensor, float, float, float, float, float], None]


@functools.cache
def adam_step() -> AdamStep | None:
    """``adam.c`` as a function of (θ, g, m, v, β1, β2, rate, grad_rate, ε), or None where it cannot be compiled.

    θ ← θ − (rate · m + grad_rate · g) / (√v + ε), after m ← β1 m + (1 − β1) g and v ← β2 v + (1 − β2) g². The tensors
    must be such as ``is_native`` takes, and of one size.
    """
    functions = library()
    if functions is None:
        return None
    function = functions.adam
    function.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_int64, *[ctypes.c_float] * 6, ctypes.c_int]
    function.restype = None

    def step(
        parameter: Tensor,
        grad: Tensor,
        m: Tensor,
        v: Tensor,
        beta1: float,
        beta2: float,
        rate: float,
        grad_rate: float,
        eps: float,
    ) -> None:
        pointers = [tensor.data_ptr() for tensor in (parameter, grad, m, v)]
        numbers = (1 - beta1, beta2, 1 - beta2, rate, grad_rate, eps)
        function(*pointers, parameter.numel(), *numbers, torch.get_num_threads())

    return step
