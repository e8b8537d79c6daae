import os

import pytest

from mlp_lightning.files.atomic import written_beside


def test_what_was_written_takes_the_place_of_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with written_beside(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch, call):
    def fails(*arguments):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="No space left"), written_beside(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def interrupted_write(path):
    with written_beside(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_exception_in_the_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is a device or a pipe"), written_beside(path) as temporary:
        temporary.write_text("new")
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]
