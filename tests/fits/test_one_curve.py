"""A run that is cut off again and again leaves the curves of the one that was not, in one folder."""

import errno
import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlp_lightning.cli import main as cli
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs import checkpoint as checkpoints
from mlp_lightning.training.runs import folder_lock

DATA = ["--data.dataset", "arrays", "--data.root", "data.npz"]
FIT = [
    *("fit", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *DATA),
    *("--trainer.limit_train_batches", 4, "--trainer.log_every_n_steps", 1, "--trainer.max_epochs", 3),
    *("--model.hidden", "[8]", "--model.averaging", "ema", "--data.batch_size", 16),
    *("--model.ema_decay", 0.5, "--model.lr", 0.02),
]
RUNS = Path("lightning_logs/default")
LAST = RUNS / "version_0/checkpoints/last.ckpt"


class Killed(Exception):
    """In place of a signal that leaves no time to do anything."""


class NoPictures(pl.Callback):
    """Pictures take most of the time of a short run, and no curve needs them."""

    def on_validation_end(self, trainer, pl_module):
        pass

    def on_test_end(self, trainer, pl_module):
        pass


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "Pictures", NoPictures)
        yield


@contextmanager
def inside(folder):
    random = np.random.default_rng(6)
    y = random.integers(0, 3, 120)
    np.savez(folder / "data.npz", x=(random.normal(size=(120, 6)) + y[:, None]).astype(np.float32), y=y)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.fixture
def elsewhere(tmp_path):
    with inside(tmp_path):
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory, run_main):
    """The curves of a run that was left alone, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("straight")
    with inside(folder):
        run_main(*FIT)
    return curves(folder / LAST.parent.parent), read_checkpoint(folder / LAST)


@pytest.fixture
def killed(run_main, monkeypatch):
    """Runs the command, and raises where the method of a class is called for the ``count``-th time, or at a step."""

    def run(owner, name, count, *, after=False):
        original, calls = getattr(owner, name), 0

        def counted(self, *arguments, **options):
            nonlocal calls
            calls += 1
            if after:
                original(self, *arguments, **options)
            if calls == count:
                raise Killed
            return None if after else original(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, counted)
            with pytest.raises(Killed):
                run_main(*FIT, "--ckpt_path", "auto")

    return run


def curves(folder):
    """Every scalar's steps and values, in the order in which TensorBoard reads them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_killed_at_every_kind_of_moment(elsewhere, killed, run_main, straight, capsys):
    # Each of these begins where the one before it came to. Within the first epoch nothing was saved yet: that run
    # begins anew, in version_1.
    killed(MLPModule, "hand_step", 3)
    killed(MLPModule, "hand_step", 7)
    assert "step 4" not in capsys.readouterr().out
    # After the validation of the second epoch was logged, before and after best.ckpt, and after last.ckpt.
    killed(NoPictures, "on_validation_end", 1, after=True)
    killed(checkpoints.AtomicCheckpointIO, "save_checkpoint", 1, after=True)
    killed(checkpoints.AtomicCheckpointIO, "save_checkpoint", 2, after=True)
    killed(NoPictures, "on_test_end", 1, after=True)
    run_main(*FIT, "--ckpt_path", "last")
    assert "logs: resumed in lightning_logs/default/version_1 from step 12" in capsys.readouterr().out.splitlines()
    assert {path.name for path in RUNS.iterdir()} == {"version_0", "version_1"}
    expected, checkpoint = straight
    assert {"train/loss", "val/loss", "val/raw_loss", "health/noise_scale", "test/loss", "result/test/loss"} <= set(
        expected
    )
    assert curves(RUNS / "version_1") == expected
    # The second epoch is the best so far, so that both files were written after it.
    assert expected["val/accuracy"][0][1] < expected["val/accuracy"][1][1]
    steps = [step for step, _ in expected["train/loss"]]
    assert steps == list(range(1, 13))
    resumed = read_checkpoint(RUNS / "version_1/checkpoints/last.ckpt")
    torch.testing.assert_close(resumed["state_dict"], checkpoint["state_dict"], rtol=0, atol=0)
    assert resumed["history"] == checkpoint["history"]
    assert resumed["callbacks"]["Health"] == checkpoint["callbacks"]["Health"]
    assert not list(RUNS.rglob("*.tmp"))


@pytest.fixture
def half(elsewhere, run_main):
    """A run that may go on, and what is in its folder."""
    run_main(*FIT, "--trainer.max_epochs", 2)
    return {path: path.read_bytes() for path in RUNS.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
@pytest.mark.parametrize("name", ["config.yaml", "events.*", "last.ckpt", "metrics.json"])
def test_no_file_is_lost_where_it_cannot_be_written(half, run_main, monkeypatch, capsys, name, number):
    replace = os.replace

    def refused(source, target):
        if Path(target).match(name):
            raise OSError(number, os.strerror(number), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(SystemExit) as ended:
        run_main(*FIT, "--ckpt_path", "last")
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert os.strerror(number) in line
    assert {path: path.read_bytes() for path in half if path.match(name)} == {
        path: content for path, content in half.items() if path.match(name)
    }
    assert not list(RUNS.rglob("*.tmp"))


def test_other_options_and_files_from_elsewhere_get_a_folder_of_their_own(elsewhere, run_main, straight, capsys):
    run_main(*FIT, "--trainer.max_epochs", 2)
    before = {path: path.read_bytes() for path in RUNS.rglob("*") if path.is_file()}
    expected, _ = straight
    run_main(*FIT, "--ckpt_path", LAST, "--model.lr", 0.5)
    assert "with the curves of lightning_logs/default/version_0 up to step 8" in capsys.readouterr().out
    found = curves(RUNS / "version_1")["train/loss"]
    assert [step for step, _ in found] == list(range(1, 13))
    assert found[:9] == expected["train/loss"][:9]
    assert found[9:] != expected["train/loss"][9:]
    copy = Path("copy.ckpt")
    copy.write_bytes(LAST.read_bytes())
    run_main(*FIT, "--ckpt_path", copy)
    assert curves(RUNS / "version_2")["train/loss"] == expected["train/loss"][8:]
    run_main("test", *DATA, "--trainer.accelerator", "cpu", "--ckpt_path", LAST)
    assert {path: path.read_bytes() for path in before} == before
    # More epochs are no other run. While another process trains in its folder, nobody goes on there.
    folder_lock._let_go()
    with (RUNS / "version_0/.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            run_main(*FIT, "--ckpt_path", LAST)
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(
        "error: --ckpt_path: got a checkpoint of lightning_logs/default/version_0, in which process "
    )
    assert {path: path.read_bytes() for path in before} == before
    run_main(*FIT, "--ckpt_path", LAST)
    assert curves(RUNS / "version_0") == expected
    assert json.loads((RUNS / "version_0/metrics.json").read_text())["epochs"] == 3
    assert {path.name for path in RUNS.iterdir()} == {f"version_{number}" for number in range(4)}
