"""A run's TensorBoard events on disk: how far they go, and the way back to where they were at a checkpoint.

An event file is a row of records: the length of the data in 8 bytes, a checksum of it in 4, the data, their checksum in
4. TensorBoard reads the files of a folder one after another, by name, in which the second that each began comes first.
"""

import os
import re
import shutil
import struct
import time
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c  # type: ignore[import-untyped]

from mlp_lightning.files.atomic import written_beside

# The second, the host and the process, and a number for each file of that process.
_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.(.*\.(\d+))")
_HEADER, _FOOTER = 12, 4


def event_files(folder: Path) -> list[Path]:
    """The event files of a run, in the order they were begun."""
    ages = {}
    for path in folder.glob("events.out.tfevents.*"):
        match = _NAME.fullmatch(path.name)
        if match is not None and path.is_file():
            ages[path] = int(match[1]), int(match[3])
    return sorted(ages, key=lambda path: ages[path])


def synced_size(folder: Path) -> int:
    """How many bytes of events there are, once they are safe on the disk."""
    size = 0
    for path in event_files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            size += os.fstat(file.fileno()).st_size
    return size


def go_back(run: Path, size: int, folder: Path) -> None:
    """Make the first ``size`` bytes of the events of ``run`` one file, which takes the place of all in ``folder``.

    Whole records alone are taken: a process that was killed may have left part of one at its end. Wherever this is
    interrupted, it can be done again.

    Args:
        run: The folder of the events.
        size: What ``synced_size`` said of it at the step to go back to.
        folder: ``run`` itself, or another.
    """
    files, replaced = event_files(run), event_files(folder)
    if files:
        match = _NAME.fullmatch(files[0].name)
        assert match is not None
        # Before any file that is yet to begin, in the same second too, and though the clock was put back.
        began = min(int(match[1]), int(time.time())) - 1
        target = folder / f"events.out.tfevents.{began:010d}.{match[2]}"
        with written_beside(target) as temporary, temporary.open("wb") as kept:
            for path in files:
                with path.open("rb") as file:
                    limit = min(size, os.fstat(file.fileno()).st_size)
                    _copy(file, _whole_records(file, limit), kept)
                size -= limit
        replaced = [path for path in replaced if path != target]
    for path in replaced:
        path.unlink()


def _whole_records(file: BinaryIO, limit: int) -> int:
    """The end of the last whole record within the first ``limit`` bytes."""
    end = 0
    while end + _HEADER + _FOOTER <= limit:
        file.seek(end)
        header = file.read(_HEADER)
        length, checksum = struct.unpack("<QI", header)
        after = end + _HEADER + length + _FOOTER
        if after > limit or masked_crc32c(header[:8]) != checksum:
            break
        end = after
    return end


def _copy(file: BinaryIO, size: int, target: BinaryIO) -> None:
    file.seek(0)
    while size:
        block = file.read(min(size, shutil.COPY_BUFSIZE))  # type: ignore[attr-defined]
        target.write(block)
        size -= len(block)
