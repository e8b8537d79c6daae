"""Digests of what a finished run depends on besides its options: the user's own files, and this program."""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2]
# Files of more bytes than this in all are known by sizes, times of change, heads and tails.
MOST_READ = 2**30
HEAD = 2**16
# The files that a folder's data are in, by data.dataset. Other sets never change.
EVERYTHING = "**/*"
PATTERNS = {"csv": "*.csv", "arrays": "*.np[yz]", "image_folder": EVERYTHING}


def digest(text: str) -> str:
    """Eight hexadecimal digits."""
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=4).hexdigest()


def data_digest(options: Mapping[str, Any]) -> str:
    """Changes with the user's own files that a run reads: with their contents, up to a gigabyte in all.

    Above that, with their sizes, times of change and first and last 64 KiB.

    Args:
        options: by their dotted names.
    """
    pattern = PATTERNS.get(str(options.get("data.dataset")))
    places = [options.get(f"data.{name}") for name in ("root", "test_path")]
    if pattern is None:
        return digest("")
    found = [(place, list(_files(Path(str(place)).expanduser(), pattern))) for place in places if place is not None]
    total = sum(status.st_size for _, files in found for _, status in files)
    lines = []
    for place, files in found:
        for path, status in files:
            name = os.path.relpath(path, Path(str(place)).expanduser())
            whole = total <= MOST_READ
            lines.append(f"{name} {status.st_size} {_contents(path, status.st_size, status.st_mtime_ns, whole)}")
        lines.append("")
    return digest("\n".join(lines))


def _files(place: Path, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    if not os.path.isdir(place):
        paths = [place]
    elif pattern == EVERYTHING:
        paths = list(_below(place, set()))
    else:
        paths = list(place.glob(pattern))
    for path in sorted(paths):
        with suppress(OSError):
            # Nothing that opening would wait for.
            if os.path.isfile(path):
                yield path, path.stat()


def _below(folder: Path, seen: set[str]) -> Iterator[Path]:
    """All files in a folder and those in it, links included; a link back to a folder above is not followed twice."""
    seen.add(os.path.realpath(folder))
    with suppress(OSError):
        for path in folder.iterdir():
            if not path.is_dir():
                yield path
            elif os.path.realpath(path) not in seen:
                yield from _below(path, seen)


# The seeds of an experiment share their data.
@functools.lru_cache(maxsize=2**20)
def _contents(path: Path, size: int, changed: int, whole: bool) -> str:
    digested = hashlib.blake2b(digest_size=8)
    try:
        with path.open("rb") as file:
            if whole:
                while block := file.read(2**20):
                    digested.update(block)
            else:
                digested.update(f"{changed}".encode() + file.read(HEAD))
                file.seek(max(0, size - HEAD))
                digested.update(file.read(HEAD))
    except OSError:
        return "unreadable"
    return digested.hexdigest()


@functools.cache
def program_digest() -> str:
    """Changes with any source file of this package."""
    names = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".c", ".h"))
    contents = (f"{path.relative_to(PACKAGE)} {hashlib.blake2b(path.read_bytes()).hexdigest()}" for path in names)
    return digest("\n".join(contents))
