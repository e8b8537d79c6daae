"""A run's folder belongs to one process at a time."""

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from mlp_lightning.errors import UserError
from mlp_lightning.files.regular import real

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
_held: tuple[Path, int] | None = None


def hold(folder: Path) -> None:
    """Let no other process train in ``folder``, until this one ends or holds another folder.

    The system lets go of it with the process, however that ends. Where there are no such locks, on Windows and some
    network file systems, nothing is held.

    Raises:
        UserError: another process holds it, or its lock is a link, a folder or a pipe.
    """
    global _held
    path = real(folder) / LOCK
    if sys.platform == "win32" or (_held is not None and _held[0] == path):
        return
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        process = os.read(file, 20).decode(errors="replace")
        os.close(file)
        raise UserError(
            f"--ckpt_path: got a checkpoint of {folder}, in which process {process} trains at this moment; "
            "wait for its end or stop it"
        ) from error
    except OSError:
        os.close(file)
        return
    os.ftruncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)
    _let_go()
    _held = path, file


def is_abandoned(folder: Path) -> bool:
    """Whether a process has held ``folder`` and none does now; false too where the system has no such locks."""
    if sys.platform == "win32":
        return False
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _open(path: Path) -> int:
    """The lock, to be written: a link, or a second name of another file, would let the other file be emptied."""
    try:
        # Without O_NONBLOCK, to open a pipe is to wait.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise UserError(f"{path} cannot be locked: {reason}; remove it") from error
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(file)
        raise UserError(f"{path} cannot be locked: it is no file of its own; remove it")
    return file


def _let_go() -> None:
    global _held
    if _held is not None:
        with suppress(OSError):
            os.close(_held[1])
    _held = None


if sys.platform != "win32":
    # A child has the file open too: it would hold the folder beyond the end of its parent, or think it its own.
    os.register_at_fork(after_in_child=_let_go)
