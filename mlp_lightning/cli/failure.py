"""How a command fails: one line, and exit status 2."""

import errno
import os
import sys
from typing import NoReturn

from mlp_lightning.memory import out_of_memory
from mlp_lightning.printable import printable

# A folder, or a whole file system, that may only be read.
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = "the folder in which this was started is no longer there"


def system_error(error: OSError) -> str:
    """One line for what the system refuses: a folder that is read-only or gone, a full disk, too little memory."""
    line = out_of_memory(error)
    if line is not None:
        return line
    reason = error.strerror or str(error)
    if error.errno in READ_ONLY:
        return f"{error.filename or 'a file of the run'} cannot be opened or written: {reason}"
    if error.filename is None and error.errno == errno.ENOENT and not has_folder():
        return NO_FOLDER
    return f"{error.filename or 'a file'}: {reason}"


def has_folder() -> bool:
    """Whether the current folder still exists."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def fail(message: str) -> NoReturn:
    """Print one line and exit with status 2."""
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)
