"""Which files of a folder are pictures, and which are left out."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mlp_lightning.data.images.pictures import FORMATS
from mlp_lightning.data.notes import note
from mlp_lightning.errors import UserError

# Those of FORMATS, as pillow knows them.
SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff"),
        *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    }
)
# What file managers lay beside pictures.
OF_THE_SYSTEM = frozenset({"thumbs.db", "desktop.ini"})
MOST_NAMED = 6


class Found(NamedTuple):
    """Pictures, in order, and of the other files how many have which suffix, or are no files that can be read."""

    files: list[Path]
    left_out: Counter[str]


def find_pictures(folder: Path) -> Found:
    """The pictures in a folder and the folders below it; hidden files and folders are left out.

    A file is one by its suffix, in upper or lower case, or without a suffix by its header. Links are followed; a
    folder that is reached twice is read once.

    Raises:
        UserError: a folder that cannot be read.
    """
    files, left_out = [], Counter[str]()
    for file in _files(folder):
        suffix = file.suffix.lower()
        if not file.is_file():
            left_out["links to nothing" if file.is_symlink() else "not regular files"] += 1
        elif suffix in SUFFIXES or (not suffix and _is_picture(file)):
            files.append(file)
        elif file.name.lower() not in OF_THE_SYSTEM:
            left_out[suffix or "no suffix"] += 1
    return Found(sorted(files), left_out)


def note_left_out(folder: Path, left_out: Counter[str]) -> None:
    """Say how many files of which suffix are no pictures; nothing if there are none."""
    if left_out:
        note(f"{folder}: files left out, since they are no pictures: {left_out.total()} ({by_suffix(left_out)})")


def by_suffix(counts: Counter[str]) -> str:
    """How many files have which suffix, in words."""
    named = [f"{suffix} {count}" for suffix, count in counts.most_common(MOST_NAMED)]
    return ", ".join(named) + (", …" if len(counts) > MOST_NAMED else "")


def visible(paths: Iterable[Path]) -> list[Path]:
    """Those that are not hidden, in order."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    # A link to a folder above would bring in the pictures of other classes.
    seen = {(about.st_dev, about.st_ino) for about in map(os.stat, folder.resolve().parents)}

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        about = os.stat(place)
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _is_picture(file: Path) -> bool:
    """Whether a file's header is one of a picture."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(file, formats=FORMATS).close()
    except (Image.DecompressionBombError, PermissionError):
        # Whoever reads it will say why it cannot be read.
        return True
    except Exception:  # pillow raises whatever the bytes of a text happened to mean
        return False
    return True
