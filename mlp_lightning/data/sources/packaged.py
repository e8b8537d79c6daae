"""MNIST travels with the package: unpack it, once, into the folder layout that torchvision reads."""

import hashlib
import lzma
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from mlp_lightning.errors import UserError
from mlp_lightning.files.atomic import written_beside


class _File(NamedTuple):
    size: int
    md5: str


FILES = {
    "train-images-idx3-ubyte": _File(47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": _File(60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": _File(7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": _File(10_008, "27ae3e4e09519cfbb04c329615203637"),
}


def unpack_mnist(root: Path) -> Path:
    """Make the four IDX files in ``root/MNIST/raw``, which is returned; those that are there are verified by MD5.

    Several processes may start at once, and a process may be killed at any moment: a file appears whole or not at all.

    Raises:
        UserError: a file that is there has other contents, or a file cannot be read or written.
    """
    folder = root / "MNIST" / "raw"
    for name, expected in FILES.items():
        path = folder / name
        try:
            if path.exists():
                _verify(path, expected)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                with written_beside(path) as temporary:
                    temporary.write_bytes(_unpacked(name, expected))
        except OSError as error:
            raise UserError(f"data.root: cannot unpack MNIST to {path} ({error.strerror or error})") from error
    return folder


def _verify(path: Path, expected: _File) -> None:
    contents = path.read_bytes()
    if _md5(contents) != expected.md5:
        raise UserError(
            f"data.root: {path} is damaged: {len(contents)} bytes with another MD5 than MNIST's file of "
            f"{expected.size} bytes; delete it, then it is unpacked again"
        )


def _unpacked(name: str, expected: _File) -> bytes:
    packed = resources.files("mlp_lightning").joinpath("data", "mnist", f"{name}.xz")
    try:
        contents = lzma.decompress(packed.read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise UserError(f"{packed} is damaged ({error}); install the package again") from error
    if _md5(contents) != expected.md5:
        raise UserError(f"{packed} is damaged (wrong MD5 once unpacked); install the package again")
    return contents


def _md5(contents: bytes) -> str:
    return hashlib.md5(contents, usedforsecurity=False).hexdigest()
