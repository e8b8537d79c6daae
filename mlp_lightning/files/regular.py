"""Reading files that may be anything: a pipe would make the reader wait for ever, a device has no end."""

import errno
import os
import stat
from pathlib import Path


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The bytes of a regular file.

    Args:
        path: The file, or a link to it.
        most: How many bytes it may have; None for no limit.

    Raises:
        OSError: it cannot be read, is a folder, a pipe or a device, or is larger.
    """
    try:
        # Without O_NONBLOCK, to open a pipe is to wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds a null byte", str(path)) from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if most is not None and status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, more than {most:,}", str(path))
        return file.read()


def real(path: str | os.PathLike[str]) -> Path:
    """The path without links; unlike ``Path.resolve``, also where links lead in a circle."""
    return Path(os.path.realpath(path))


def modified(path: Path) -> int | None:
    """When a regular file was last written, in ns; None for whatever is not one, such as a link to nothing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns if stat.S_ISREG(status.st_mode) else None
