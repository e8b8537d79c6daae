"""The package's C functions, for processors, and those of the libraries that torch is linked with."""

import ctypes
import functools

import torch
from torch import Tensor

from mlp_lightning.compilation import compilation


@functools.cache
def library() -> ctypes.CDLL | None:
    """All C functions of the package, or None where they cannot be compiled."""
    compiled = compilation()
    if compiled is None:
        return None
    path = compiled.library()
    try:
        return None if path is None else ctypes.CDLL(str(path))
    except OSError:
        return None
    finally:
        compiled.discard()


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
