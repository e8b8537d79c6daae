"""Update rules in C, for processors: compiled when first used, by the machine's own compiler, if it has one."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# -fno-math-errno lets the compiler use vector square roots; no flag here changes what a formula rounds to but the
# fusing of a multiplication with the addition that follows it.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fPIC", "-shared")
FLOATS = [ctypes.c_float] * 6

AdamStep = Callable[[Tensor, Tensor, Tensor, Tensor, float, float, float, float, float], None]


@functools.cache
def adam_step() -> AdamStep | None:
    """``adam.c`` as a function of (θ, g, m, v, β1, β2, rate, grad_rate, ε), or None where it cannot be compiled.

    θ ← θ − (rate · m + grad_rate · g) / (√v + ε), after m ← β1 m + (1 − β1) g and v ← β2 v + (1 − β2) g². The tensors
    must be contiguous float32 on the CPU and of one size.

    The compiler is that of the environment variable ``CC``, else ``cc``; an empty ``CC`` says not to compile. What it
    makes is loaded and deleted: nothing is left to be stale on another processor.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "adam.so"
        command = [compiler, *FLAGS, str(Path(__file__).with_name("adam.c")), "-o", str(library), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True)
            function = ctypes.CDLL(str(library)).adam
        except (subprocess.CalledProcessError, OSError):
            return None
    function.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_int64, *FLOATS, ctypes.c_int]
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


def is_native(*tensors: Tensor) -> bool:
    """Whether the functions here take these tensors."""
    return all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
