"""A temporary folder of this process, which also removes those that killed processes left behind."""

import os
import re
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PREFIX = "mlp_lightning-"
# The number of the process, and what tempfile makes of it; older versions left the number out.
_NAME = re.compile(rf"{PREFIX}(?:(\d+)-)?[a-z0-9_]{{8}}")
# Seconds after which a folder that nobody holds is left over, whoever made it.
OLD = 3600.0


class Scratch:
    """A folder that only this user may open, held until it is removed.

    The system lets go of it with the process, however that ends: that is how others know a folder that is left over.
    Raises OSError where there is no place for temporary files.
    """

    def __init__(self) -> None:
        remove_left_over()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._held = _hold(self.folder)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None


def remove_left_over() -> None:
    """Remove this user's folders whose process was killed; nothing where the system has no such locks."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        for path in Path(tempfile.gettempdir()).iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None:
                with suppress(OSError):
                    _remove_if_left_over(path, match[1])


def _remove_if_left_over(path: Path, process: str | None) -> None:
    found = path.lstat()
    is_dead = process is not None and not _is_running(int(process))
    if found.st_uid != os.getuid() or not (is_dead or time.time() - found.st_mtime > OLD):
        return
    # Processes of other containers have numbers that say nothing here, but their locks do.
    held = _hold(path)
    if held is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def _hold(folder: Path) -> int | None:
    """Lock a folder; None where another process holds it, it is a link, or there are no locks."""
    if sys.platform == "win32":
        return None
    file = None
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if file is not None:
            os.close(file)
        return None
    return file


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True
