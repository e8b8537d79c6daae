"""How much memory this process may take, and the errors that say that it was too little."""

import errno
import os
import re
from pathlib import Path

# Limits of a container, in both versions of Linux's control groups.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# What torch, its BLAS and the C++ library say; torch's errors on GPUs have a class of their own.
_WORDS = re.compile(r"not enough memory|can't allocate memory|cannot allocate memory|out of memory|bad_alloc", re.I)
_LONGEST = 200


def machine_memory() -> int | None:
    """Bytes of memory that this machine has, or that this process may use of them; None where nobody tells."""
    known = [size for size in (_physical(), *map(_limit, _LIMITS)) if size is not None]
    return min(known, default=None)


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        # Windows has no such function, and not every system knows these names.
        return None


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # No such group, or no limit: "max".
        return None


def out_of_memory(error: BaseException) -> str | None:
    """One line for an error that says that memory ran out; None for any other error."""
    is_meant = (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and _WORDS.search(str(error)))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )
    if not is_meant:
        return None
    detail = " ".join(str(error).split())[:_LONGEST]
    what = f"out of memory ({detail})" if detail else "out of memory"
    return f"{what}: a smaller data.batch_size or model.hidden, or fewer data at a time, take less"
