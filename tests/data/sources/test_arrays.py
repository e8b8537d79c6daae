"""Arrays from NumPy's files, in memory and mapped: shapes, types, and trainings from files to metrics."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mlp_lightning.data.array.mapped import MappedRows
from mlp_lightning.data.module import DataModule
from mlp_lightning.data.preprocessing import ArrayPreprocessing, ImagePreprocessing
from mlp_lightning.data.sources.arrays import load_arrays
from mlp_lightning.data.sources.options import SourceOptions
from mlp_lightning.data.sources.own import trained_on
from mlp_lightning.errors import UserError
from mlp_lightning.training.distributed.strategy import register_strategies
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.quiet import quiet_lightning
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks
from mlp_lightning.training.trainer import Trainer

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3


def write(place, **arrays):
    if place.suffix == ".npz":
        np.savez(place, **arrays)
    else:
        place.mkdir(exist_ok=True)
        for name, array in arrays.items():
            np.save(place / f"{name}.npy", array)
    return place


def module(root, **options):
    return DataModule(**{"dataset": "arrays", "root": str(root), **options})


@pytest.mark.parametrize("place", ["it.npz", "folder"])
@pytest.mark.parametrize(
    ("x", "shape", "preprocessing"),
    [
        (RNG.random((60, 6)).astype("f4"), (), ArrayPreprocessing(6, (6,), 1)),
        (RNG.normal(size=(60, 6)), (), ArrayPreprocessing(6, (6,), 1)),
        (RNG.integers(0, 256, (60, 6)).astype("u1"), (), ArrayPreprocessing(6, (6,), 255)),
        (RNG.integers(-9, 9, (60, 6)), (), ArrayPreprocessing(6, (6,), 1)),
        (RNG.integers(0, 256, (60, 2, 3)).astype("u1"), (2, 3), ImagePreprocessing(2, 3)),
        (RNG.random((60, 2, 3, 1)), (2, 3), ImagePreprocessing(2, 3)),
        (RNG.random((60, 2, 3, 3)).astype("f2"), (2, 3, 3), ImagePreprocessing(2, 3, 3)),
        (RNG.normal(size=(60, 2, 3)), (2, 3), ArrayPreprocessing(6, (2, 3), 1)),
    ],
    ids=["float", "double", "bytes", "whole numbers", "grey", "one channel", "colour", "numbers in a plane"],
)
def test_samples_are_those_of_the_file(tmp_path, place, x, shape, preprocessing):
    root = write(tmp_path / place, x_train=x[:40], y_train=Y[:40], x_test=x[40:], y_test=Y[40:])
    data = module(root).data
    expected = x.reshape(60, -1).astype("f4") / np.float32(255 if x.dtype == np.uint8 else 1)
    assert np.array_equal(data.train_x.numpy(), expected[:40])
    assert np.array_equal(data.test_x.numpy(), expected[40:])
    assert (data.train_y.tolist(), data.test_y.tolist()) == (Y[:40].tolist(), Y[40:].tolist())
    if isinstance(preprocessing, ArrayPreprocessing) and preprocessing.divisor == 1:
        preprocessing = replace(preprocessing, low=float(x[:40].min()), high=float(x[:40].max()))
    assert (data.image_shape, data.preprocessing) == (shape, preprocessing)


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (Y * 5 + 5, ("5", "10", "15")),
        (Y.astype("f4"), ("0", "1", "2")),
        (np.array(["b", "a", "c"])[Y], ("a", "b", "c")),
    ],
    ids=["numbers", "floats", "texts"],
)
def test_labels_become_classes(tmp_path, y, names):
    data = module(write(tmp_path / "it.npz", x=RNG.random((60, 2)), y=y)).data
    assert data.class_names == names
    assert (data.train_y.bincount().tolist(), data.test_y.bincount().tolist()) == ([16] * 3, [4] * 3)


@pytest.mark.parametrize("place", ["it.npz", "folder"])
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300], ids=["NaN", "infinity", "more than float32 holds"])
def test_a_value_that_is_not_finite_is_named(tmp_path, place, value):
    x = RNG.random((60, 2, 3))
    x[41, 1, 0] = value
    with pytest.raises(UserError, match=rf"x(\.npy)?, row 41, column 3: got {re.escape(str(value))}, must be finite"):
        module(write(tmp_path / place, x=x, y=Y)).data  # noqa: B018


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_that_is_no_number_is_named(tmp_path, value):
    y = Y.astype("f8")
    y[7] = value
    with pytest.raises(UserError, match=rf"y, row 7: the label is {value}, must be finite"):
        module(write(tmp_path / "it.npz", x=RNG.random((60, 2)), y=y)).data  # noqa: B018


@pytest.mark.parametrize("classes", [[1, 2], [2]], ids=["a rare class", "one class is left"])
def test_a_class_whose_samples_all_validate_is_refused(tmp_path, classes):
    # Of twenty samples the minibatch's last six validate.
    y = np.array([classes[k % len(classes)] for k in range(17)] + [0] * 3)
    root = write(tmp_path / "it.npz", x_train=RNG.random((20, 2)), y_train=y, x_test=RNG.random((4, 2)), y_test=y[:4])
    options = {"validation": "per_batch", "shuffle": False, "batch_size": 20}
    with pytest.raises(
        UserError, match=r"it\.npz has samples of 0 that test or validate, but none in its training part"
    ):
        module(root, **options).data  # noqa: B018
    assert module(root, validation="none").data.class_names == ("0", *map(str, classes))


def test_another_test_file_is_read_as_the_checkpoint_was(tmp_path):
    root = write(tmp_path / "it.npz", x=RNG.random((60, 2, 2)), y=Y)
    trained = trained_on(module(root).data.description())
    x = RNG.random((5, 2, 2))
    other = write(tmp_path / "other", x=x, y=np.array([2, 2, 1, 2, 1]))
    options = SourceOptions(root="gone", test_path=str(other))
    data = load_arrays(options, torch.arange, trained, test_only=True)
    assert (len(data.train_y), data.class_names, data.image_shape) == (0, ("0", "1", "2"), (2, 2))
    assert data.test_y.tolist() == [2, 2, 1, 2, 1]
    assert np.array_equal(data.test_x.numpy(), x.reshape(5, 4).astype("f4"))
    wide = write(tmp_path / "wide", x=RNG.random((5, 9)), y=Y[:5])
    with pytest.raises(
        UserError, match=r"x\.npy: samples of the shape \(9,\), but the checkpoint's model takes \(N, 4\)"
    ):
        load_arrays(SourceOptions(test_path=str(wide)), torch.arange, trained, test_only=True)


def test_what_is_larger_than_the_budget_stays_on_disk(tmp_path):
    root = write(tmp_path / "it", x=RNG.random((60, 50)).astype("f4"), y=Y)
    assert isinstance(module(root, memory_budget=0.02).data.train_x, torch.Tensor)
    mapped, resident = module(root, memory_budget=0.01).data, module(root).data
    for part in ("train_x", "test_x"):
        assert isinstance(getattr(mapped, part), MappedRows)
        assert torch.equal(getattr(mapped, part)[:], getattr(resident, part))
    with pytest.raises(UserError, match=r"must be at most 0 \(data\.memory_budget\); a folder with x_train\.npy"):
        module(write(tmp_path / "it.npz", x=RNG.random((60, 50)), y=Y), memory_budget=0.01).data  # noqa: B018


@pytest.fixture
def digits(tmp_path):
    held = load_digits()
    return write(tmp_path / "digits", x=(held.images * 15).astype("u1"), y=held.target)


OPTIONS = {
    "plain": (),
    "deformed, mixed": ("--data.deform.rotation", "10", "--data.mixup", "0.3"),
    "per batch": ("--data.validation", "per_batch", "--data.shuffle", "false"),
    "bf16": ("--trainer.precision", "bf16-true"),
}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=() if name == "deformed, mixed" else pytest.mark.slow)
        for name, options in OPTIONS.items()
    ],
)
def test_a_mapped_training_is_the_one_in_memory(digits, run_files, options):
    common = ("--data.dataset", "arrays", "--data.root", digits, "--data.batch_size", 64, *options)
    held = []
    for budget in ("null", "0.1"):
        folder = run_files("fit", *common, "--data.memory_budget", budget)
        held.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True))
        metrics = json.loads((folder / "metrics.json").read_text())
    for name, weight in held[0]["state_dict"].items():
        assert torch.equal(weight, held[1]["state_dict"][name]), name
    assert held[0]["history"] == held[1]["history"]
    assert metrics["test/accuracy"] > 0.1


@pytest.mark.slow
def test_a_mapped_training_goes_on_within_an_epoch(digits, run_files):
    common = ("--data.dataset", "arrays", "--data.root", digits, "--data.memory_budget", "0.1")
    every = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=50")
    every += ("--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.filename=at-{step}")
    straight = run_files("fit", *common, *every)
    resumed = run_files("fit", *common, *every, "--ckpt_path", straight / "checkpoints" / "at-step=50.ckpt")
    weights = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (straight, resumed)
    ]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_two_processes_on_a_mapped_set_equal_one(digits, tmp_path):
    quiet_lightning()
    register_strategies()
    states = []
    for name, processes in (("one", {"devices": 1}), ("two", {"devices": 2, "strategy": "ddp_fork"})):
        trainer = Trainer(
            **processes,
            accelerator="cpu",
            callbacks=[*checkpoint_callbacks()],
            default_root_dir=tmp_path / name,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
            max_epochs=2,
            num_sanity_val_steps=0,
        )
        data = module(digits, memory_budget=0.1, batch_size=25)
        trainer.fit(MLPModule(hidden=[5], optimizer="sgd", lr=0.05), data)
        states.append(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    torch.testing.assert_close(states[1], states[0], rtol=1e-5, atol=1e-6)
