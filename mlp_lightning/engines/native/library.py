"""The package's C functions, for processors, and those of the libraries that torch is linked with."""

import ctypes
import functools
import os
import sys

import torch
from torch import Tensor

from mlp_lightning.engines.native.compile import Compilation, compilation
from mlp_lightning.errors import UserError

# One of each source, to know that none is missing.
FUNCTIONS = ("adam", "flush_denormals", "forward_pass", "linear_forward", "make_steps", "softmax_cross_entropy")


@functools.cache
def library() -> ctypes.CDLL | None:
    """All C functions of the package, or None where they cannot be compiled or loaded; the reason is printed once."""
    try:
        compiled = compilation()
        return None if compiled is None else _load(compiled)
    except UserError as error:
        # Of the processes of a training, one for each machine tells.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"no C functions, so steps take longer: {' '.join(str(error).split())}", file=sys.stderr)
        return None


def _load(compiled: Compilation) -> ctypes.CDLL:
    try:
        functions = ctypes.CDLL(str(compiled.library()))
    except OSError as error:
        raise UserError(f"the library that was compiled cannot be loaded: {error}; TMPDIR names its folder") from error
    finally:
        compiled.discard()
    missing = [name for name in FUNCTIONS if not hasattr(functions, name)]
    if missing:
        raise UserError(f"the library that was compiled has no function {missing[0]}")
    return functions


def function_of_torch(name: str) -> ctypes.c_void_p | None:
    """A C function of torch or of what it is linked with, such as its BLAS, or None where there is none."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(torch._C.__file__), name), ctypes.c_void_p)
    except (AttributeError, OSError):
        return None


@functools.cache
def shares_threads() -> bool:
    """Whether the C functions use torch's own OpenMP, whose BLAS then starts no threads within one of theirs."""
    ours, name = library(), "omp_get_num_threads"
    theirs = function_of_torch(name)
    if ours is None or theirs is None or not hasattr(ours, name):
        return False
    return ctypes.cast(getattr(ours, name), ctypes.c_void_p).value == theirs.value


def is_native(*tensors: Tensor) -> bool:
    """Whether the C functions take these tensors: contiguous float32 on the CPU."""
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_cpu or not tensor.is_contiguous():
            return False
    return True
