"""Which file a name means, and what a checkpoint may hold."""

import io
import os
import pickle

import pytest
import torch

from mlp_lightning.errors import UserError
from mlp_lightning.files import seal
from mlp_lightning.files.checkpoint_file import FORMAT_KEY, find_checkpoint, read_checkpoint

WHOLE = {"state_dict": {"w": torch.arange(3.0)}, "hyper_parameters": {}, "sizes": [3, 1], "history": {}}
WHOLE |= {"window": {}, "global_step": 5}


class Code:
    def __reduce__(self):
        return os.mkdir, (self.folder,)

    def __init__(self, folder):
        self.folder = folder


def saved(contents) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def sealed(contents) -> bytes:
    buffer = io.BytesIO()
    file = seal.SealingFile(buffer)
    torch.save({**contents, FORMAT_KEY: seal.FORMAT}, file)
    file.seal()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is not a readable checkpoint"),
        (b"some text\n", "is not a readable checkpoint"),
        (saved(WHOLE)[:-200], "is not a readable checkpoint"),
        (pickle.dumps({"state_dict": print}), "is not a readable checkpoint"),
        (saved({"state_dict": {}, "epoch": 3}), "it has no hyper_parameters, sizes, history, window"),
        (saved({}), "is not a checkpoint of this trainer"),
        (saved([1, 2]), "is not a checkpoint of this trainer"),
        (saved(torch.zeros(3)), "is not a checkpoint of this trainer"),
        (saved(5), "is not a checkpoint of this trainer"),
    ],
    ids=["empty", "text", "cut off", "pickle", "other trainer's", "no keys", "list", "tensor", "number"],
)
def test_what_is_no_checkpoint_of_this_trainer_is_refused(tmp_path, contents, message):
    path = tmp_path / "x.ckpt"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(str(path))
    assert str(caught.value).startswith(f"--ckpt_path: {path} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (saved, "it is damaged, or carries code, which is never run"),
        (sealed, "it carries code, which is never run"),
        (pickle.dumps, "it is damaged, or carries code, which is never run"),
    ],
    ids=["without seal", "sealed", "plain pickle"],
)
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, write, message):
    path, trace = tmp_path / "x.ckpt", tmp_path / "trace"
    path.write_bytes(write({**WHOLE, "extra": Code(str(trace))}))
    with pytest.raises(UserError, match="is not a readable checkpoint: " + message):
        read_checkpoint(str(path))
    assert not trace.exists()
    # The file is a real attack: whoever unpickles it without a thought runs its code.
    with path.open("rb") as file:
        pickle.load(file) if write is pickle.dumps else torch.load(file, weights_only=False)
    assert trace.is_dir()


def test_a_sealed_file_is_read_without_the_mark_of_its_format(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(sealed(WHOLE))
    checkpoint = read_checkpoint(path)
    assert checkpoint.keys() == WHOLE.keys()
    assert torch.equal(checkpoint["state_dict"]["w"], WHOLE["state_dict"]["w"])


def test_a_file_from_before_there_were_seals_loads(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(saved(WHOLE))
    assert read_checkpoint(path).keys() == WHOLE.keys()


def some_of(whole):
    """All positions in the seal, and every 13th before it."""
    return [*range(0, len(whole) - 130, 13), *range(len(whole) - 130, len(whole))]


def test_any_flipped_byte_is_found(tmp_path):
    whole, path = sealed(WHOLE), tmp_path / "x.ckpt"
    for position in some_of(whole):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is not a readable checkpoint"):
            read_checkpoint(path)


def test_any_cut_is_found(tmp_path):
    whole, path = sealed(WHOLE), tmp_path / "x.ckpt"
    for length in some_of(whole):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is not a readable checkpoint"):
            read_checkpoint(path)


def test_a_newer_format_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    monkeypatch.setattr(seal, "FORMAT", 2)
    path.write_bytes(sealed(WHOLE))
    with pytest.raises(UserError, match=r"x\.ckpt is of format 2, and this version of mlp_lightning reads up to 1; "):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("ages", "offered"),
    [
        ({"best": 5, "step=3": 9}, "best"),
        ({"best": -5, "step=3": 9}, "step=3"),
        ({"best": -5}, "best"),
        ({"cut": 1, "step=3": 9}, "step=3"),
        ({"cut": 1}, None),
        ({}, None),
    ],
    ids=["newest of the older", "older before newer", "newer", "damaged one passed over", "none is whole", "alone"],
)
def test_a_damaged_file_offers_a_good_one_beside_it(tmp_path, ages, offered):
    for name, age in {"last": 0, **ages}.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(sealed(WHOLE)[: -1 if name in ("last", "cut") else None])
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    with pytest.raises(UserError) as caught:
        read_checkpoint(tmp_path / "last.ckpt")
    end = "is missing" if offered is None else f"is missing; beside it, {tmp_path / offered}.ckpt is whole"
    assert str(caught.value).startswith(f"--ckpt_path: {tmp_path / 'last.ckpt'} ")
    assert str(caught.value).endswith(end)


@pytest.mark.parametrize("name", ["missing.ckpt", "."], ids=["no file", "folder"])
def test_a_path_without_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"^--ckpt_path: there is no file "):
        read_checkpoint(str(tmp_path / name))


def test_an_error_names_the_option_that_was_given(tmp_path):
    with pytest.raises(UserError, match=r"^load: there is no file "):
        read_checkpoint(tmp_path / "missing.ckpt", option="load")


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Two runs, of which the older one, by name, has the newer best.ckpt; a third that kept its last.ckpt alone."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(["b/version_0/checkpoints/best.ckpt", "a/version_1/checkpoints/best.ckpt"]):
        write(tmp_path / "lightning_logs" / name, age)
    for age, name in enumerate(["c/version_0/checkpoints/last.ckpt", "a/version_1/checkpoints/last.ckpt"]):
        write(tmp_path / "lightning_logs" / name, 10 - age)
    return tmp_path / "lightning_logs"


def write(path, age):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    os.utime(path, (1_000_000 - age, 1_000_000 - age))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("best", "b/version_0/checkpoints/best.ckpt"),
        ("last", "a/version_1/checkpoints/last.ckpt"),
        ("lightning_logs/a/version_1", "a/version_1/checkpoints/best.ckpt"),
        ("lightning_logs/a/version_1/checkpoints", "a/version_1/checkpoints/best.ckpt"),
        ("lightning_logs/c", "c/version_0/checkpoints/last.ckpt"),
        ("lightning_logs", "b/version_0/checkpoints/best.ckpt"),
        ("lightning_logs/a/version_1/checkpoints/last.ckpt", "a/version_1/checkpoints/last.ckpt"),
    ],
)
def test_which_file_a_name_means(logs, name, found):
    assert find_checkpoint(name).resolve() == (logs / found).resolve()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("best", "--ckpt_path: got best, but there is no best.ckpt in lightning_logs"),
        ("empty", "--ckpt_path: got empty, but there is no best.ckpt nor last.ckpt in empty"),
        ("none.ckpt", "--ckpt_path: there is no file none.ckpt"),
    ],
)
def test_a_name_without_a_file(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        find_checkpoint(name)
    assert str(caught.value).startswith(message)
