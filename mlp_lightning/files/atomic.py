"""Files that are whole or not there: written beside their target, synced, then renamed."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_TEMPORARY = ".{}.tmp"


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path``: what the block writes there takes the place of ``path`` at its end.

    If anything fails, ``path`` stays as it was and nothing is left beside it. Several processes may write the same
    path at once. Raises whatever the block or the file system raises.
    """
    # Not tempfile: its files are readable by their owner alone. Beside the target, since a rename is atomic within one
    # file system only.
    temporary = path.parent / _TEMPORARY.format(uuid4().hex)
    try:
        # A rename would put a file in the place of a device, of /dev/null itself where the user may.
        if path.is_dir():
            # The rename would fail too, and name the temporary file.
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if path.exists() and not path.is_file():
            raise OSError(errno.EEXIST, "it is a device or a pipe", str(path))
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        # Where it could not be written it cannot be removed either.
        with suppress(OSError, ValueError):
            temporary.unlink()


def remove_leftovers(folder: Path, *, age: float = 0.0) -> None:
    """Remove what killed processes left of ``written_beside`` in a folder.

    Args:
        folder: Where nobody writes now, or else a file that is being written is younger than ``age``.
        age: In seconds; younger files stay.
    """
    limit = time.time() - age
    for path in folder.glob(_TEMPORARY.format("[0-9a-f]" * 32)):
        with suppress(OSError):
            if path.lstat().st_mtime <= limit:
                path.unlink()
