"""The seal at the end of a checkpoint: its format's number and a hash of all that stands before."""

import hashlib
import re
from typing import BinaryIO

# Goes up when an older version of this project could not read the file.
FORMAT = 1
_SEAL = re.compile(rb"\nmlp_lightning checkpoint, format (\d{1,9}), sha256 ([0-9a-f]{64})\n\Z")
_LONGEST = 128


class SealingFile:
    """A file to write to that hashes on the way, so that nothing is read again; ``seal`` ends it.

    ``torch.load`` and ``zipfile`` overlook what follows the archive.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sum = hashlib.sha256()
        self.failure: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Write ``data``; returns how many bytes that were. What it raises is kept in ``failure``."""
        try:
            self._sum.update(data)
            return self._file.write(data)
        except BaseException as failure:
            self.failure = failure
            raise

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._file.flush()

    def seal(self) -> None:
        """Write the seal, which vouches for its own number too."""
        self.write(f"\nmlp_lightning checkpoint, format {FORMAT}, sha256 ".encode())
        self._file.write(f"{self._sum.hexdigest()}\n".encode())


def format_of(data: bytes) -> int | None:
    """The format that an intact seal tells; None for a file without a seal.

    Raises:
        ValueError: the bytes are not those that were sealed.
    """
    match = _SEAL.search(data, max(0, len(data) - _LONGEST))
    if match is None:
        return None
    if hashlib.sha256(memoryview(data)[: match.start(2)]).hexdigest() != match[2].decode():
        raise ValueError("the hash of its content is not the one it was sealed with")
    return int(match[1])
