"""A folder that one process holds, asked for by another: a real child of this one."""

import os
import signal
import sys
import time

import pytest

from mlp_lightning.errors import UserError
from mlp_lightning.training.runs import folder_lock
from mlp_lightning.training.runs.folder_lock import hold

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there is no flock"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def let_go():
    folder_lock._let_go()
    yield
    folder_lock._let_go()


def child(task):
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        task()
        status = 0
    finally:
        os._exit(status)


def ended(number):
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def holder(folder):
    """A process that holds a folder and sleeps."""

    def task():
        hold(folder)
        (folder / "held").touch()
        time.sleep(60)

    number = child(task)
    while not (folder / "held").exists():
        time.sleep(0.01)
    return number


def test_what_another_process_holds_is_refused_until_it_is_killed(tmp_path):
    number = holder(tmp_path)
    with pytest.raises(UserError, match=rf"^--ckpt_path: got a checkpoint of {tmp_path}, in which process {number} "):
        hold(tmp_path)
    os.kill(number, signal.SIGKILL)
    assert ended(number) == -signal.SIGKILL
    hold(tmp_path)


def test_a_process_may_hold_its_folder_again(tmp_path):
    hold(tmp_path)
    hold(tmp_path)


def test_another_folder_lets_go_of_the_first(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    hold(tmp_path / "a")
    hold(tmp_path / "b")
    assert ended(child(lambda: hold(tmp_path / "a"))) == 0
    assert ended(child(lambda: hold(tmp_path / "b"))) == 1


def test_a_child_neither_holds_nor_keeps_the_folder_of_its_parent(tmp_path):
    hold(tmp_path)
    assert ended(child(lambda: hold(tmp_path))) == 1
    sleeper = child(lambda: time.sleep(60))
    folder_lock._let_go()
    try:
        assert ended(child(lambda: hold(tmp_path))) == 0
    finally:
        os.kill(sleeper, signal.SIGKILL)
        ended(sleeper)


def test_a_file_system_without_locks_holds_nothing(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folder_lock.fcntl, "flock", none)
    hold(tmp_path)
    assert folder_lock._held is None


@pytest.mark.parametrize("kind", ["link", "dangling", "circle", "second name", "folder", "pipe"])
def test_a_lock_that_is_no_file_of_its_own_is_refused_and_left_alone(tmp_path, kind):
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.write_text("precious")
    lock = folder / ".lock"
    if kind == "second name":
        os.link(other, lock)
    elif kind == "folder":
        lock.mkdir()
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to({"link": other, "dangling": tmp_path / "new", "circle": lock}[kind])
    with pytest.raises(UserError, match=r"\.lock cannot be locked: .*; remove it$"):
        hold(folder)
    assert other.read_text() == "precious"
    assert not (tmp_path / "new").exists()
