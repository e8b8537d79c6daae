"""Data files that were damaged, made by another program, or made to do harm; each error names the file."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TABLE = "a,b,y\n" + "".join(f"{k},{'uv'[k % 2]},{'no' if k % 2 else 'yes'}\n" for k in range(30))
CSV = "OWN --data.dataset csv --data.root it.csv --data.label y"
TABLES = {
    "empty": ("", "", ("it.csv: the file has no header",)),
    "empty lines": ("\n\n", "", ("it.csv: the file has no header",)),
    "header alone": ("a,b,y\n", "", ("it.csv: the file has a header, but no rows",)),
    "long row": (TABLE.replace("3,v,no", "3,v,no,x"), "", ("it.csv, line 5: 4 cells, must be 3",)),
    "NUL": (TABLE.replace("3,v", "3,\0v"), "", ("it.csv, line 5: holds a NUL byte",)),
    "open quote": (TABLE.replace("3,v", '3,"v'), "", ("it.csv: is no CSV file", "expected after")),
    "utf-16": (TABLE.encode("utf-16"), "", ("it.csv: is no text in UTF-8",)),
    "latin-1": (TABLE.replace("3,v", "3,\xe9").encode("latin-1"), "", ("it.csv: is no text in UTF-8", "at byte 31")),
    "huge number": (TABLE.replace("3,v", "1e400,v"), "", ("it.csv, line 5, column 'a': got '1e400'", "finite")),
    "underscore": (TABLE.replace("3,v", "3_0,v"), "", ("it.csv, line 5, column 'a': got '3_0'", "a number")),
    "column without a name": (TABLE.replace("a,b", "a,", 1), "--data.categorical [b]", ("data.categorical: got b",)),
    "huge cell": (TABLE.replace("3,v", "3," + "v" * 200_000), "", ("it.csv: is no CSV file", "field limit")),
    "formula": (TABLE.replace("3,v", "=1+1,v"), "", ("it.csv, line 5, column 'a': got '=1+1'",)),
    "two rows": ("a,b,y\n1,u,no\n2,v,yes\n", "", ("data.test_size",)),
    "label too many": (TABLE, "--data.label [y]", ("data.label: got [y]", "it.csv: a, b, y")),
    "label ignored": (TABLE, "--data.ignore [y]", ("data.ignore", "y")),
    "test that is a picture": (TABLE, "--data.test_path a.png", ("a.png: is no text in UTF-8",)),
    "test that is a folder": (TABLE, "--data.test_path data", ("data", "cannot be read")),
    "test without a name": (TABLE, "--data.test_path ''", ("data.test_path: got nothing",)),
    "share of no number": (TABLE, "--data.test_size .nan", ("data.test_size: got nan",)),
    "a pipe": (TABLE, "--data.root pipe", ("data.root: got pipe", "no such file or folder")),
}


@pytest.mark.parametrize("name", TABLES)
def test_table(name: str, here: Path, error_of: Callable[..., str]) -> None:
    held, options, expected = TABLES[name]
    (here / "it.csv").write_bytes(held if isinstance(held, bytes) else held.encode())
    Image.new("L", (3, 2), 7).save(here / "a.png")
    os.mkfifo(here / "pipe")
    message = error_of(f"{CSV} {options}")
    assert all(part in message for part in expected), message


X, Y = np.arange(60.0).reshape(20, 3), np.arange(20) % 2


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape: object, kind: str = "<f8", *, version: bytes = b"\1\0") -> bytes:
    """The beginning of a .npy file that promises what it will; 480 bytes follow."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + bytes(480)


# What stands in the place of x, and what is said of it in an archive and in a folder.
UNREADABLE = "cannot be read as a NumPy file"
ARRAYS: dict[str, tuple[bytes, str]] = {
    "10^12 rows": (header((10**12, 3)), ""),
    "10^30 rows": (header((10**30, 3)), UNREADABLE),
    "less than no rows": (header((-20, 3)), ""),
    "rows of nothing": (header((2**40, 0)), ""),
    "a true number of rows": (header((True, 3)), ""),
    "forty axes": (header((1,) * 40 + (20,)), ""),
    "a number for a shape": (header(3), ""),
    "code for a shape": (header("__import__('os').system('touch pwned')"), UNREADABLE),
    "unknown type": (header((20, 3), "foo"), UNREADABLE),
    "objects": (header((20, 3), "|O"), "Python objects"),
    "pickled objects": (npy(X.astype(object)), "Python objects"),
    "long words": (header((20, 3), "<U1000000"), ""),
    "no bytes at all": (header((20, 3), "V0"), ""),
    "unknown version": (header((20, 3), version=rb"\9\9"), UNREADABLE),
    "too short": (npy(X)[:-8], ""),
    "empty": (b"", ""),
    "text": (b"1,2,3\n", ""),
    "complex": (npy(X.astype(complex)), "must be numbers"),
    "dates": (npy(X.astype("M8[s]")), "must be numbers"),
    "records": (npy(X.view([("a", "f8")])), "must be numbers"),
    "beyond float32": (npy(np.where(X == 7, 1e39, X)), "row 2, column 1: got 1e+39, must be finite, at most 3.4e+38"),
    "infinite halves": (npy(np.full((20, 3), np.inf, "f2")), "row 0, column 0: got inf"),
    "no columns": (npy(np.zeros((20, 0))), "(20, 0)"),
    "one number": (npy(np.float64(3)), "()"),
}


def test_an_archive_whose_name_takes_in_its_arrays(here: Path, error_of: Callable[..., str]) -> None:
    np.savez(here / "it.npz", x=X, y=Y)
    contents = bytearray((here / "it.npz").read_bytes())
    # The length of the first array's name.
    contents[26:28] = (400).to_bytes(2, "little")
    (here / "it.npz").write_bytes(contents)
    message = error_of("init my.yaml --data.dataset arrays --data.root it.npz")
    assert UNREADABLE in message
    assert len(message) < 500


@pytest.mark.parametrize("place", ["it.npz", "it"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str, place: str, here: Path, error_of: Callable[..., str]) -> None:
    held, expected = ARRAYS[name]
    if place == "it":
        (here / place).mkdir()
        (here / place / "x.npy").write_bytes(held)
        (here / place / "y.npy").write_bytes(npy(Y))
    else:
        with zipfile.ZipFile(here / place, "w") as archive:
            archive.writestr("x.npy", held)
            archive.writestr("y.npy", npy(Y))
    message = error_of(f"init my.yaml --data.dataset arrays --data.root {place}")
    assert place in message
    assert expected in message
    assert not (here / "pwned").exists()


LABELS = {
    "objects": (Y.astype(object), "Python objects"),
    "complex": (Y.astype(complex), "complex128"),
    "two columns": (np.stack([Y, Y], 1) + 2, "(20, 2)"),
    "one": (np.float64(3), "()"),
    "dates": (Y.astype("M8[s]"), "datetime64"),
    "endless": (np.where(Y == 1, np.inf, 0), "the label is inf"),
    "too few": (Y[:7], "7 labels"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels(name: str, here: Path, error_of: Callable[..., str]) -> None:
    labels, expected = LABELS[name]
    np.savez(here / "it.npz", x=X, y=labels)
    message = error_of("init my.yaml --data.dataset arrays --data.root it.npz")
    assert "it.npz" in message
    assert expected in message


def idx_header(*shape: int, magic: tuple[int, int] = (0, 0), kind: int = 8, axes: int | None = None) -> bytes:
    return struct.pack(f">4B{len(shape)}I", *magic, kind, len(shape) if axes is None else axes, *shape)


FILES = {
    "too long": idx_header(40, 2, 3) + bytes(242),
    "2^32 images": idx_header(2**32 - 1, 2, 3) + bytes(240),
    "2^93 pixels": idx_header(2**31, 2**31, 2**31),
    "no pixels": idx_header(40, 0, 0),
    "floats": idx_header(40, 2, 3, kind=0x0D) + bytes(960),
    "unknown type": idx_header(40, 2, 3, kind=7) + bytes(240),
    "wrong magic": idx_header(40, 2, 3, magic=(1, 0)) + bytes(240),
    "255 axes": idx_header(40, 2, 3, axes=255) + bytes(240),
    "no axes": idx_header(axes=0) + bytes(240),
    "one axis": idx_header(40) + bytes(40),
    "still packed": b"\x1f\x8b\x08" + bytes(250),
}


@pytest.mark.parametrize("name", FILES)
def test_images_of_a_packaged_layout(
    name: str, here: Path, write_fashion: Callable[..., None], error_of: Callable[..., str]
) -> None:
    write_fashion(here / "data", train_images=FILES[name])
    message = error_of("init my.yaml --data.dataset fashion_mnist --data.root data")
    assert message.startswith("error: data.root: ")
    assert "FashionMNIST" in message


PICTURES: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "a signature": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "", ("a/it.png:", "data.skip_unreadable")),
    "a program": (lambda path: path.write_text("%!PS-Adobe\n"), "", ("a/it.png: is no picture in a known format",)),
    "a vector graphic": (lambda path: path.write_text("<svg/>"), "", ("a/it.png: is no picture",)),
    "huge size": (os.mkfifo, "--data.image_size [100000,100000]", ("data.image_size: got [100000, 100000]", "most")),
    "huger size": (os.mkfifo, f"--data.image_size [{10**30},3]", ("data.image_size: got", "at most 100,000,000")),
    "one size": (os.mkfifo, "--data.image_size [3]", ("data.image_size", "[3]")),
    "half a pixel": (os.mkfifo, "--data.image_size [1.5,3]", ("data.image_size", "1.5")),
    "channels": (os.mkfifo, "--data.channels blue", ("data.channels: got blue", "grey, rgb")),
    "a test that is a file": (os.mkfifo, "--data.test_path c.txt", ("data.test_path: got", "c.txt, must be a folder")),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str, here: Path, error_of: Callable[..., str]) -> None:
    make, options, expected = PICTURES[name]
    for kind in "ab":
        (here / "pictures" / kind).mkdir(parents=True)
        for k in range(6):
            Image.new("L", (3, 3), 9 * k).save(here / "pictures" / kind / f"{k}.png")
    (here / "c.txt").write_text("text")
    make(here / "pictures" / "a" / "it.png")
    message = error_of(f"init my.yaml --data.dataset image_folder --data.root pictures {options}")
    assert all(part in message for part in expected), message


def test_kinds_of_pictures_that_train_together(here: Path, run_main: Callable[..., None]) -> None:
    """16 bits, four inks, a palette and one pixel are pictures; links to nothing and pipes are none, and left out."""
    folder = here / "pictures"
    for kind in "ab":
        (folder / kind).mkdir(parents=True)
        Image.fromarray(np.full((3, 3), 40_000, "u2")).save(folder / kind / "deep.png")
        Image.new("CMYK", (3, 3), (0, 90, 0, 0)).save(folder / kind / "inks.jpg")
        Image.new("P", (3, 3), 3).save(folder / kind / "palette.gif")
        Image.new("L", (1, 1)).save(folder / kind / "pixel.png")
        (folder / kind / "nothing.png").symlink_to("gone.png")
        os.mkfifo(folder / kind / "pipe.png")
    run_main(
        "init", "my.yaml", "--data.dataset", "image_folder", "--data.root", "pictures", "--data.image_size", "[3,3]"
    )
    assert (here / "my.yaml").is_file()


def test_a_huge_picture_is_not_unpacked(here: Path, huge_picture: bytes, error_of: Callable[..., str]) -> None:
    (here / "pictures" / "a").mkdir(parents=True)
    (here / "pictures" / "a" / "it.png").write_bytes(huge_picture)
    message = error_of("init my.yaml --data.dataset image_folder --data.root pictures")
    assert "a/it.png: cannot be read as a picture (Image size (400000000 pixels)" in message
