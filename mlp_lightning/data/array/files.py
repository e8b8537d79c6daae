"""Files of arrays: what they hold by name, read within a bound of memory and without Python objects."""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.data.sources.part_names import ArrayName, PartName, array_name
from mlp_lightning.errors import UserError

# What NumPy raises for a file that is cut off, or is no array, or holds Python objects, or whose header is nonsense.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    SyntaxError,
    NotImplementedError,
    RuntimeError,
    OSError,
    EOFError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# Characters of what a library says of a file: zipfile quotes whatever stands where a name should be.
LONGEST_REASON = 200
NPY, NPZ = b"\x93NUMPY", b"PK"
EXPECTED = "x and y, or x_train and y_train, with x_test and y_test and x_val and y_val if there are any"


class Part(NamedTuple):
    """Samples and labels as they are in files, and what errors call them."""

    x: NDArray
    y: NDArray | None
    x_name: str
    y_name: str
    path: Path | None  # of x, if it is a .npy file


class ArrayFiles:
    """A .npz file, or a folder of .npy files.

    Args:
        place: the file or folder.
        budget: bytes that the arrays of a .npz file may take in memory.

    Raises:
        UserError: it cannot be read, or holds two arrays for the same thing.
    """

    def __init__(self, place: Path, budget: float) -> None:
        self.place, self.budget = place, budget
        self.names: dict[ArrayName, str] = {}
        self.others: list[str] = []
        for name in self._all_names():
            known = array_name(name)
            if known is None:
                self.others.append(name)
            elif known in self.names:
                both = f"{self.names[known]} and {name}"
                raise UserError(f"{place}: has {both}, must have one of them: which one counts cannot be told")
            else:
                self.names[known] = name

    def _all_names(self) -> list[str]:
        if self.place.is_dir():
            return sorted(file.stem for file in self.place.iterdir() if file.suffix == ".npy" and file.is_file())
        with readable(str(self.place)):
            with self.place.open("rb") as file:
                magic = file.read(len(NPY))
            if magic == NPY:
                raise UserError(f"data.root: got {self.place}, must be a .npz file or a folder of .npy files")
            if not magic:
                raise ValueError("it is empty")
            if not magic.startswith(NPZ):
                raise ValueError("it is no archive, or holds pickled objects")
            with zipfile.ZipFile(self.place) as archive:
                return [info.filename.removesuffix(".npy") for info in archive.infolist()]

    def has(self, part: PartName | None) -> bool:
        """Whether there are samples of that part."""
        return ArrayName("x", part) in self.names

    @property
    def held(self) -> str:
        """The names of all arrays."""
        return ", ".join([*self.names.values(), *self.others]) or "none of them"

    def read(self, *parts: PartName | None, labels: bool = True) -> list[Part]:
        """Samples and labels of some parts, each once.

        Raises:
            UserError: an array is missing, cannot be read, or is larger than the budget.
        """
        wanted = [ArrayName(role, part) for part in parts for role in ("x", "y")]
        for each in wanted:
            if each not in self.names and (labels or each.role == "x"):
                lacking = f"{each.role}_{each.part}" if each.part else each.role
                raise UserError(f"{self.place}: has no array {lacking}; must have {EXPECTED}; it has {self.held}")
        arrays = self._read([self.names[each] for each in wanted if each in self.names])
        found = []
        for part in parts:
            x, y = (self.names.get(ArrayName(role, part), "") for role in ("x", "y"))
            path = self.place / f"{x}.npy" if self.place.is_dir() else None
            found.append(Part(arrays[x], arrays.get(y), self._said(x), self._said(y), path))
        return found

    def only(self) -> Part:
        """The one array that there is, whatever its name; raises UserError if there are others."""
        if len(self.others) != 1 or self.names:
            raise UserError(f"{self.place}: has the arrays {self.held}, must have x or x_test, or one alone")
        (name,) = self.others
        return Part(self._read([name])[name], None, self._said(name), "", None)

    def _said(self, name: str) -> str:
        return f"{self.place / name}.npy" if self.place.is_dir() else f"{self.place}, {name}"

    def _read(self, names: list[str]) -> dict[str, NDArray]:
        if self.place.is_dir():
            return {name: mapped(self.place / f"{name}.npy") for name in names}
        arrays = {}
        with readable(str(self.place)), zipfile.ZipFile(self.place) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            total = 0.0
            for name in names:
                with readable(self._said(name)), archive.open(members[name]) as member:
                    total += _bytes(member, members[name].file_size)
            # Before the first of them is unpacked.
            if total > self.budget:
                raise self._too_large(total)
            for name in names:
                with readable(self._said(name)), archive.open(members[name]) as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays

    def _too_large(self, total: float) -> UserError:
        return UserError(
            f"{self.place}: its arrays take {total / 1e6:,.0f} MB of memory, must be at most {self.budget / 1e6:,.0f} "
            "(data.memory_budget); a folder with x_train.npy, y_train.npy, … is read as it is needed"
        )


def mapped(file: Path) -> NDArray:
    """A .npy file that stays on disk; raises UserError if it cannot be read."""
    with readable(str(file)):
        with file.open("rb") as opened:
            magic = opened.read(len(NPY))
        if magic.startswith(NPZ):
            raise ValueError("it is an archive")
        array: NDArray = np.load(file, mmap_mode="r", allow_pickle=False)
        return array


def _bytes(member: IO[bytes], file_size: int) -> float:
    """What an array will take in memory, as it is or as float32, by its header; ValueError if it is not all there."""
    if member.read(len(NPY)) != NPY:
        raise ValueError("it is no array")
    member.seek(0)
    version = np.lib.format.read_magic(member)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(member)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    size = math.prod(shape)
    if size * dtype.itemsize > file_size:
        raise ValueError(f"it is cut off: its header says {size * dtype.itemsize:,} bytes, there are {file_size:,}")
    return float(size * max(4, dtype.itemsize))


@contextmanager
def readable(said: str) -> Iterator[None]:
    """Turn what NumPy raises for a file that it cannot read into an error that names it."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{said}: is larger than the memory") from error
    except UNREADABLE as error:
        if any(word in str(error).lower() for word in ("pickle", "python object")):
            raise UserError(
                f"{said}: holds Python objects or is no NumPy file; must hold numbers alone, nothing else is read"
            ) from error
        reason = " ".join(str(error).split()) or "it is cut off"
        if len(reason) > LONGEST_REASON:
            reason = f"{reason[:LONGEST_REASON]} …"
        raise UserError(f"{said}: cannot be read as a NumPy file ({reason})") from error
