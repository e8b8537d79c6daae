"""A real checkpoint with one value replaced: it is read and used unharmed, or refused in one line."""

import copy
import io
import math
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mlp_lightning.data.module import DataModule
from mlp_lightning.data.sources.own import trained_on
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import FORMAT_KEY, read_checkpoint
from mlp_lightning.files.checkpoint_rules import checked
from mlp_lightning.files.rules import Wrong
from mlp_lightning.predicting.model import load
from mlp_lightning.training.callbacks.early_stopping import Patience
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.checkpoint import AtomicCheckpointIO, checkpoint_callbacks
from mlp_lightning.training.trained_options import check_trained

ONE = torch.tensor(1.0)
NESTED: list = []
NESTED.append(NESTED)
VALUES = {
    "none": None,
    "text": "x",
    "path": "local:///home",
    "dots": "../../../../home",
    "empty": "",
    "bytes": b"\xff",
    "true": True,
    "zero": 0,
    "negative": -1,
    "large": 2**62,
    "huge": 10**400,
    "fraction": 0.5,
    "nan": math.nan,
    "infinite": -math.inf,
    "complex": 1j,
    "list": [],
    "nested list": [[[[[[1]]]]]],
    "endless list": NESTED,
    "dict": {},
    "nested dict": {"a": {"b": {"c": {"d": {"e": {}}}}}},
    "odd keys": {1: 2, None: 3},
    "set": {1, 2},
    "dtype": torch.float32,
    "scalar": torch.tensor(0.5),
    "nan tensor": torch.tensor(math.nan),
    "whole": torch.arange(3),
    "complex tensor": torch.zeros(3, dtype=torch.complex64),
    "shape": torch.zeros(2, 3, 4),
    "nothing": torch.zeros(0),
    "expanded": torch.zeros(1).expand(10**12),
    "meta": torch.zeros(10**9, device="meta"),
    "sparse": torch.zeros(3, 3).to_sparse(),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training's last.ckpt, with every callback of ours and one of Lightning's that keeps files."""
    folder = tmp_path_factory.mktemp("real")
    lines = ["a,b,y", *(f"{k % 7}.5,{'uv'[k % 2]},{'no' if k % 3 else 'yes'}" for k in range(40))]
    (folder / "it.csv").write_text("\n".join(lines) + "\n")
    module = MLPModule(hidden=[4, 3], optimizer="adam", norm="batch", averaging="ema")
    callbacks = [*checkpoint_callbacks(), Patience("val/loss", patience=9), Health()]
    callbacks.append(ModelCheckpoint(dirpath=folder / "kept", monitor="val/loss", save_top_k=2))
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    data = DataModule("csv", str(folder / "it.csv"), label="y", batch_size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        trainer.fit(module, data)
    return next(folder.glob("checkpoints/last.ckpt"))


def leaves(value, place=()):
    """The place of every value in nested dicts and lists, containers included."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in items:
        yield from leaves(part, (*place, key))


def with_value(content, place, value):
    """A copy of ``content`` in which ``value`` is at ``place``; what is beside it is shared."""
    if not place:
        return value
    key, *rest = place
    changed = dict(content) if isinstance(content, dict) else list(content)
    changed[key] = with_value(content[key], rest, value)
    return type(content)(changed) if isinstance(content, tuple) else changed


class FakeTrainer:
    """As much of a trainer as ``on_load_checkpoint`` asks."""

    world_size = 1

    def __init__(self, callbacks):
        self.callbacks = callbacks
        self.state = type("State", (), {"fn": "fit"})
        self.datamodule = None
        self.checkpoint_callbacks = []


@pytest.fixture
def use(whole, monkeypatch):
    """Whatever reads a checkpoint's content, but for Lightning's loops; returns what the callback was told."""
    module = MLPModule.load_from_checkpoint(whole)
    kept = ModelCheckpoint(dirpath=whole.parent.parent / "kept", monitor="val/loss", save_top_k=2)

    def use(content):
        taken = checked(content, 10**6)
        assert {"state_dict", "hyper_parameters", "sizes", "history", "window"} <= taken.keys()
        check_trained(taken, "x.ckpt")
        if "data" in taken:
            trained_on(taken["data"])
        callbacks = [kept, *checkpoint_callbacks(), Patience("val/loss"), Health()]
        for callback in callbacks[1:3]:
            callback.dirpath = str(whole.parent)
        monkeypatch.setattr(MLPModule, "trainer", FakeTrainer(callbacks), raising=False)
        monkeypatch.setattr(MLPModule, "global_rank", 0)
        module._trainer = MLPModule.trainer
        module.on_load_checkpoint(taken)
        module.load_state_dict(taken["state_dict"])
        for callback in callbacks:
            state = taken.get("callbacks", {}).get(callback.state_key)
            if state:
                callback.load_state_dict(copy.deepcopy(state))
        for callback in callbacks[:3]:
            named = [callback.best_model_path, callback.kth_best_model_path, callback.last_model_path]
            for path in filter(None, [*named, *callback.best_k_models]):
                assert Path(path).parent == Path(callback.dirpath)
                assert Path(path).is_file()
        return kept

    return use


def test_the_whole_checkpoint_is_used(whole, use):
    kept = use(torch.load(whole, weights_only=True))
    assert kept.best_k_models
    assert kept.best_model_path in kept.best_k_models


def test_every_wrong_value_is_refused_or_harmless(whole, use):
    content = torch.load(whole, weights_only=True)
    places = [place for place in leaves(content) if place[0] != "loops" or "completed" in place or len(place) < 4]
    assert len(places) > 250
    unharmed = 0
    for place in places:
        for name, value in VALUES.items():
            try:
                use(with_value(content, place, value))
                unharmed += 1
            except (UserError, Wrong) as error:
                said = str(error)
                if len(said) > 600:
                    raise AssertionError(f"{place} = {name}: {said}") from error
            except Exception as error:
                raise AssertionError(f"{place} = {name}: {type(error).__name__}: {error}") from error
    assert unharmed < len(places) * len(VALUES) / 2


def test_every_missing_value_is_refused_or_harmless(whole, use):
    content = torch.load(whole, weights_only=True)
    for *place, key in leaves(content):
        parent = content
        for step in place:
            parent = parent[step]
        if isinstance(parent, dict):
            try:
                use(with_value(content, place, {name: part for name, part in parent.items() if name != key}))
            except (UserError, Wrong, AssertionError):
                pass
            except Exception as error:
                raise AssertionError(f"without {place} {key}: {type(error).__name__}: {error}") from error


def saved(content, path):
    torch.save({name: value for name, value in content.items() if name != FORMAT_KEY}, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [10**9, 10**9]}, "ask for more weights than it holds"),
        ({"sizes": [1]}, "ask for more weights than it holds"),
        ({"state_dict": {"w": torch.zeros(1).expand(10**9)}}, "state_dict.w is a tensor, must be"),
        ({"state_dict": {"w": torch.zeros(10**9, device="meta")}}, "state_dict.w is a tensor, must be"),
        ({"windows": [{str(k): [ONE, ONE] for k in range(500)}] * 500}, "more values than its size allows"),
        ({"history": {"loss": ([1, 2], [0.5])}}, "history.loss has 2 steps and 1 values"),
        ({"pytorch-lightning_version": "1.5.0"}, "must be a version from 2 on"),
        ({"callbacks": {"Own": 3}}, "callbacks.Own is 3"),
        ({"data": {"class_names": ["a", "a"], "preprocessing": {"kind": "array", "n_features": 3}}}, "a value twice"),
    ],
)
def test_what_claims_more_than_there_is_is_refused(whole, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_checkpoint(saved({**torch.load(whole, weights_only=True), **change}, tmp_path / "x.ckpt"))


def test_lists_that_repeat_themselves_are_not_walked_through(whole, tmp_path):
    lines: list = [1.0]
    for _ in range(40):
        lines = [lines] * 10
    content = {**torch.load(whole, weights_only=True), "hyper_parameters": {"lr": lines}}
    with pytest.raises(UserError, match="must be a value that a config may hold"):
        read_checkpoint(saved(content, tmp_path / "x.ckpt"))


class Attributes:
    """Pickled as an ordered dict whose own attributes stand in the place of its methods."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        attributes = {name: [] for name in ("items", "keys", "values", "get", "copy", "_metadata")}
        return OrderedDict, (), attributes, None, iter(self.content.items())


def test_methods_cannot_be_replaced(whole, tmp_path):
    weight = torch.nn.Parameter(torch.ones(100))
    weight.detach = weight.sum = weight.isfinite = 5
    content = {**torch.load(whole, weights_only=True), "state_dict": Attributes({"w": torch.ones(100), "v": weight})}
    taken = read_checkpoint(saved(content, tmp_path / "x.ckpt"))["state_dict"]
    assert type(taken) is dict
    assert [(name, type(value), value.sum().item()) for name, value in taken.items()] == [
        ("w", torch.Tensor, 100.0),
        ("v", torch.Tensor, 100.0),
    ]


def repacked(data, *, compression=zipfile.ZIP_STORED, before=b"", extra=b""):
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO(before)
    target.seek(0, 2)
    with zipfile.ZipFile(target, "a" if before else "w", compression) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
        if extra:
            archive.writestr("archive/data/999", extra)
    return target.getvalue()


def test_an_archive_that_unpacks_to_more_than_the_file_holds_is_refused(whole, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(repacked(whole.read_bytes(), compression=zipfile.ZIP_DEFLATED, extra=bytes(10**7)))
    with pytest.raises(UserError, match="unpacks to more than the file holds"):
        read_checkpoint(path)


def test_an_archive_behind_something_else_is_refused(whole, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(repacked(whole.read_bytes(), before=b"x" * 100))
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        read_checkpoint(path)


def test_a_storage_that_claims_more_than_its_record_is_refused(tmp_path, whole):
    content = torch.load(whole, weights_only=True)
    content["state_dict"] = {"w": torch.zeros(201)}
    path = saved(content, tmp_path / "x.ckpt")
    source, target = zipfile.ZipFile(path), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                data = data.replace(b"K\xc9", b"J" + struct.pack("<i", 10**6))
            archive.writestr(name, data)
    path.write_bytes(target.getvalue())
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_predict_nothing(whole, tmp_path, value):
    content = torch.load(whole, weights_only=True)
    content["state_dict"]["averaged_network.layers.1.bias"][0] = value
    with pytest.raises(UserError, match=r"layers\.1\.bias is not finite"):
        load(saved(content, tmp_path / "x.ckpt"))
