import io
import os

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.callbacks.early_stopping import Patience
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.checkpoint import AtomicCheckpointIO, checkpoint_callbacks

WHOLE = {"state_dict": {"w": torch.arange(3.0)}, "hyper_parameters": {}, "sizes": [3, 1], "history": {}}
WHOLE |= {"window": {}, "global_step": 5}


class Interrupted(Exception):
    pass


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"old": 1}, path)
    return path


def assert_untouched(path):
    assert torch.load(path, weights_only=True)["old"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "folder" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(WHOLE, path)
    assert list(path.parent.iterdir()) == [path]
    checkpoint = read_checkpoint(str(path))
    assert checkpoint.keys() == WHOLE.keys()
    assert torch.equal(checkpoint["state_dict"]["w"], torch.arange(3.0))


def test_a_checkpoint_replaces_the_old_one(old):
    AtomicCheckpointIO().save_checkpoint({"new": 2}, old)
    written = torch.load(old, weights_only=True)
    assert written["new"] == 2
    assert "old" not in written
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("where", ["save", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Interrupted()], ids=["full disk", "killed"])
def test_a_write_that_fails_leaves_the_old_checkpoint(old, monkeypatch, where, error):
    def half_a_file(checkpoint, file):
        file.write(b"half")
        raise error

    def failing_sync(descriptor):
        raise error

    if where == "save":
        monkeypatch.setattr(torch, "save", half_a_file)
    else:
        monkeypatch.setattr(os, "fsync", failing_sync)
    with pytest.raises((UserError, Interrupted)) as caught:
        AtomicCheckpointIO().save_checkpoint({"new": 2}, old)
    if isinstance(error, OSError):
        assert str(caught.value) == f"checkpoint {old} cannot be written: No space left on device"
    assert_untouched(old)


class FullFile(io.BytesIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, data):
        if self.tell() + len(data) > 2000:
            raise self.error
        return super().write(data)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Interrupted()], ids=["full disk", "stopped"])
def test_what_ends_torch_in_the_middle_of_a_file_is_told(old, monkeypatch, error):
    monkeypatch.setattr(type(old), "open", lambda path, mode: FullFile(error))
    with pytest.raises((UserError, Interrupted)) as caught:
        AtomicCheckpointIO().save_checkpoint({"new": torch.zeros(1000)}, old)
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert str(caught.value) == f"checkpoint {old} cannot be written: No space left on device"
    assert_untouched(old)


def test_nothing_is_seen_under_the_name_before_it_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    seen = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (seen.append(path.exists()), sync(descriptor)))
    AtomicCheckpointIO().save_checkpoint(WHOLE, path)
    assert seen == [False]
    assert path.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^checkpoint .*last\.ckpt cannot be written: "):
        AtomicCheckpointIO().save_checkpoint(WHOLE, tmp_path / "file" / "last.ckpt")


@pytest.fixture
def trained(fit):
    model = {"lr": 0.01, "class_weights": [1.0, 2.0, 3.0, 4.0]}
    return fit(model, enable_checkpointing=True, callbacks=checkpoint_callbacks())


def test_last_and_best_are_kept(trained):
    assert sorted(path.name for path in trained.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    accuracies = trained.module.curves.history["val/accuracy"][1]
    best, last = (read_checkpoint(str(trained.checkpoints / name)) for name in ("best.ckpt", "last.ckpt"))
    assert best["history"]["val/accuracy"][1][-1] == max(accuracies)
    assert last["global_step"] == trained.trainer.global_step
    assert last["history"]["val/accuracy"][1] == accuracies


def test_a_checkpoint_alone_makes_the_module(trained, dataset, torch_network):
    module = MLPModule.load_from_checkpoint(trained.checkpoints / "last.ckpt", weights_only=True)
    assert dict(module.hparams) == dict(trained.module.hparams)
    assert torch.equal(module.network.flat, trained.module.network.flat)
    weights = read_checkpoint(str(trained.checkpoints / "last.ckpt"))["state_dict"]
    plain = torch_network({name.removeprefix("network."): tensor for name, tensor in weights.items()})
    torch.testing.assert_close(module(dataset.test_x), plain(dataset.test_x))


def test_last_is_the_last_though_another_was_better(fit):
    # With a learning rate of 0 no epoch is better than the first.
    run = fit({"lr": 0.0}, max_epochs=3, enable_checkpointing=True, callbacks=checkpoint_callbacks())
    checkpoints = {path.stem: read_checkpoint(str(path)) for path in run.checkpoints.iterdir()}
    assert {name: checkpoint["global_step"] for name, checkpoint in checkpoints.items()} == {"best": 5, "last": 15}


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [({"max_steps": 7}, 7), ({"val_check_interval": 2}, 10)],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_last_is_written_when_the_training_ends(fit, trainer, steps):
    run = fit(enable_checkpointing=True, callbacks=checkpoint_callbacks(), **trainer)
    assert read_checkpoint(str(run.checkpoints / "last.ckpt"))["global_step"] == run.trainer.global_step == steps


def test_states_are_found_under_lightnings_names():
    ours = [*checkpoint_callbacks(), Patience("val/loss")]
    lightnings = [
        ModelCheckpoint(monitor="val/accuracy", mode="max"),
        ModelCheckpoint(save_on_train_epoch_end=True),
        EarlyStopping("val/loss"),
    ]
    assert [callback.state_key for callback in ours] == [callback.state_key for callback in lightnings]
