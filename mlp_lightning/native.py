"""The package's C sources as one library for processors: compiled when first used, by the machine's own compiler."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

# -fno-math-errno and -fno-trapping-math let the compiler use vector square roots and selections; no flag here changes
# what a formula rounds to but the fusing of a multiplication with the addition that follows it.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")


@functools.cache
def library() -> ctypes.CDLL | None:
    """All C functions of the package, or None where they cannot be compiled.

    The compiler is that of the environment variable ``CC``, else ``cc``; an empty ``CC`` says not to compile. What it
    makes is loaded and deleted: nothing is left to be stale on another processor.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlp_lightning.so"
        try:
            subprocess.run([compiler, *FLAGS, *sources(), "-o", str(path), "-lm"], check=True, capture_output=True)
            return ctypes.CDLL(str(path))
        except (subprocess.CalledProcessError, OSError):
            return None


def function_of_torch(name: str) -> ctypes.c_void_p | None:
    """A C function of torch or of what it is linked with, such as its BLAS, or None where there is none."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(torch._C.__file__), name), ctypes.c_void_p)
    except (AttributeError, OSError):
        return None


def sources() -> list[str]:
    """The paths of the C sources."""
    return sorted(str(path) for path in Path(__file__).parent.rglob("*.c"))


def is_native(*tensors: Tensor) -> bool:
    """Whether the C functions take these tensors: contiguous float32 on the CPU."""
    return all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
