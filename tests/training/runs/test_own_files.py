"""Forged states of ModelCheckpoint, resumed from: nothing but the callback's own files is ever removed or asked for."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import FORMAT_KEY
from mlp_lightning.training.runs.checkpoint import AtomicCheckpointIO, checkpoint_callbacks
from mlp_lightning.training.runs.own_files import forget_paths, own_file

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


@pytest.fixture
def precious(tmp_path):
    """A folder with a file in it that nobody may touch."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.ckpt").write_text("years of work")
    return folder


def forged_paths(folder, checkpoints):
    return [
        f"local://{folder}",
        f"file://{folder}",
        str(folder),
        str(folder / "thesis.ckpt"),
        f"{checkpoints}/../../precious",
        f"{checkpoints}/../../precious/thesis.ckpt",
        "http://127.0.0.1:9/thesis.ckpt",
        "memory://thesis.ckpt",
        "..",
        "",
    ]


def forge(path, target, *, with_folder):
    """Let every callback's state in a checkpoint name ``target`` as what is to be removed next."""
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint[FORMAT_KEY]
    for state in checkpoint["callbacks"].values():
        if "best_model_path" in state:
            state |= dict.fromkeys(PATHS, target)
            state |= {"best_model_score": torch.tensor(-1.0), "kth_value": torch.tensor(-1.0)}
            state["best_k_models"] = {target: torch.tensor(-1.0)}
            if not with_folder:
                del state["dirpath"]
            elif with_folder != "own":
                state["dirpath"] = with_folder
    torch.save(checkpoint, path)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a file system was asked for")

    monkeypatch.setattr("fsspec.implementations.http.HTTPFileSystem.__init__", refuse, raising=False)
    monkeypatch.setattr("socket.create_connection", refuse)


@pytest.mark.parametrize("index", range(10))
@pytest.mark.parametrize("with_folder", [False, "own"], ids=["no dirpath", "its own dirpath"])
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_forged_state_removes_nothing_and_asks_nobody(fit, precious, tmp_path, no_network, index, with_folder):
    def callbacks():
        return [
            *checkpoint_callbacks(),
            ModelCheckpoint(dirpath=tmp_path / "kept", monitor="val/loss", save_last=True),
        ]

    model = {"lr": 0.01}
    half = fit(model, max_epochs=1, enable_checkpointing=True, callbacks=callbacks())
    last = half.checkpoints / "last.ckpt"
    target = forged_paths(precious, half.checkpoints)[index]
    forge(last, target, with_folder=with_folder)
    before = sorted(tmp_path.rglob("*"))
    resumed = fit(model, max_epochs=3, enable_checkpointing=True, callbacks=callbacks(), ckpt_path=last)
    assert resumed.trainer.current_epoch == 3
    assert (precious / "thesis.ckpt").read_text() == "years of work"
    gone = [path for path in before if not path.exists()]
    assert all(path.parent.name.startswith("kept") for path in gone)
    for callback in resumed.trainer.checkpoint_callbacks:
        for path in filter(None, [getattr(callback, name) for name in PATHS]):
            assert path.startswith(str(callback.dirpath))


def test_what_is_no_state_of_a_model_checkpoint_is_refused():
    callback = ModelCheckpoint(monitor="val/loss")
    with pytest.raises(UserError, match="the checkpoint's state of a callback is none"):
        forget_paths([callback], {callback.state_key: {"best_model_path": 5, "best_model_score": None}})


@pytest.mark.parametrize("name", ["x.ckpt", "/elsewhere/x.ckpt", r"C:\elsewhere\x.ckpt", "a/../x.ckpt"])
def test_a_path_is_the_name_of_a_file_in_the_folder(tmp_path, name):
    assert own_file(str(tmp_path), name) == ""
    (tmp_path / "x.ckpt").touch()
    assert own_file(str(tmp_path), name) == str(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", ["", "..", "x", "link.ckpt", "folder.ckpt", ".ckpt/..", "a\0.ckpt"])
def test_links_folders_and_other_names_are_no_files(tmp_path, name):
    (tmp_path / "x").touch()
    (tmp_path / "link.ckpt").symlink_to("x")
    (tmp_path / "folder.ckpt").mkdir()
    assert own_file(str(tmp_path), name) == ""
    assert own_file(f"local://{tmp_path}", "x.ckpt") == own_file(None, "x.ckpt") == ""


def test_only_files_are_removed(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "file").touch()
    for name in ("folder", "link", "file", "missing"):
        AtomicCheckpointIO().remove_checkpoint(tmp_path / name)
    AtomicCheckpointIO().remove_checkpoint(f"local://{tmp_path / 'folder'}")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "inner").is_dir()
