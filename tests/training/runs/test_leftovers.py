"""What a killed run left half written is removed by the next one, and nothing that somebody is writing."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlp_lightning.training.runs import folder_lock
from mlp_lightning.training.runs.run_logger import RunLogger

HALF = f".{'0' * 32}.tmp"
HOLD = "import sys; from pathlib import Path; from mlp_lightning.training.runs.folder_lock import hold; "
HOLD += "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def runs(tmp_path):
    """Runs with half a file in each of their folders."""

    def make(number, *, lock, age=0.0):
        folder = tmp_path / "default" / f"version_{number}"
        (folder / "checkpoints").mkdir(parents=True)
        if lock:
            (folder / ".lock").touch()
        halves = [folder / HALF, folder / "checkpoints" / HALF]
        for half in halves:
            half.write_text("half")
            os.utime(half, (half.stat().st_mtime - age,) * 2)
        return SimpleNamespace(folder=folder, halves=halves)

    return make


def begin(tmp_path):
    RunLogger(tmp_path, "default").begin(None)


def left(*runs):
    return [half.exists() for run in runs for half in run.halves]


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_only_what_nobody_writes_is_removed(tmp_path, runs):
    killed, held = runs(0, lock=True), runs(1, lock=True)
    evaluation, old = runs(2, lock=False), runs(3, lock=False, age=7200)
    others = [killed.folder / name for name in (".hidden.tmp", f"{HALF}.txt", "metrics.json")]
    for other in others:
        other.touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, held.folder],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        begin(tmp_path)
        process.stdin.close()
    assert left(killed, old) == [False] * 4
    assert left(held, evaluation) == [True] * 4
    assert all(other.exists() for other in others)
    begin(tmp_path)
    assert left(held) == [False] * 2


def test_a_link_in_the_place_of_the_lock_is_not_opened(tmp_path, runs):
    run = runs(0, lock=False)
    (run.folder / ".lock").symlink_to(tmp_path / "target")
    begin(tmp_path)
    assert not (tmp_path / "target").exists()
    assert left(run) == [True] * 2


def test_half_a_file_that_cannot_be_removed_keeps_nobody_from_training(tmp_path, runs, monkeypatch):
    run = runs(0, lock=True)

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    begin(tmp_path)
    assert left(run) == [True] * 2


def test_without_locks_only_old_files_are_removed(tmp_path, runs, monkeypatch):
    young, old = runs(0, lock=True), runs(1, lock=True, age=7200)
    monkeypatch.setattr(folder_lock.sys, "platform", "win32")
    begin(tmp_path)
    assert left(young, old) == [True, True, False, False]
