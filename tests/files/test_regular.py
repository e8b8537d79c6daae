"""What stands where a file belongs: pipes, devices, folders, links to nothing and in circles."""

import os
from pathlib import Path

import pytest

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import checkpoints_beside, find_checkpoint, read_checkpoint
from mlp_lightning.files.regular import modified, read_regular


@pytest.fixture
def odd(tmp_path):
    """A folder of such things."""
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "dangling.ckpt").symlink_to("nothing")
    (tmp_path / "circle.ckpt").symlink_to("circle.ckpt")
    (tmp_path / "device.ckpt").symlink_to("/dev/zero")
    return tmp_path


ODD = ["pipe", "folder", "dangling", "circle", "device", "a\0b", "missing"]


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_file_is_not_read(odd, name):
    with pytest.raises(OSError, match=r".") as caught:
        read_regular(odd / f"{name}.ckpt")
    assert caught.value.strerror
    assert modified(odd / f"{name}.ckpt") is None


@pytest.mark.parametrize("name", ODD)
def test_none_of_them_is_a_checkpoint(odd, name):
    for read in (read_checkpoint, find_checkpoint):
        with pytest.raises(UserError, match=r"there is no|cannot be read"):
            read(odd / f"{name}.ckpt")


def test_they_are_not_beside_a_checkpoint(odd):
    for name in ("last", "best"):
        (odd / f"{name}.ckpt").write_bytes(b"x")
    assert checkpoints_beside(odd / "last.ckpt") == [odd / "best.ckpt"]
    assert {path.name for path in checkpoints_beside(odd / "circle.ckpt")} == {"best.ckpt", "last.ckpt"}
    assert find_checkpoint(odd) == odd / "best.ckpt"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4"):
        read_regular(tmp_path / "x", 4)


def test_no_name_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("best.ckpt").touch()
    with pytest.raises(UserError, match="there is no file"):
        find_checkpoint("")
