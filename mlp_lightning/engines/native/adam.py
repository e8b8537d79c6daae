"""Update rules in C, for processors."""

import ctypes
import functools

import torch
from torch import Tensor

from mlp_lightning.engines.native.library import is_native, library
from mlp_lightning.optim.fused_form import OnePass


@functools.cache
def adam_step() -> OnePass | None:
    """``adam.c`` as a rule's ``one_pass``, or None where it cannot be compiled; it takes what ``is_native`` takes."""
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
    ) -> bool:
        if not is_native(parameter, grad, m, v):
            return False
        pointers = [tensor.data_ptr() for tensor in (parameter, grad, m, v)]
        numbers = (1 - beta1, beta2, 1 - beta2, rate, grad_rate, eps)
        function(*pointers, parameter.numel(), *numbers, torch.get_num_threads())
        return True

    return step
