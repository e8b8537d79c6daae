"""Which arrays of a file are read, by their names; and what they may take in memory."""

import io
import zipfile

import numpy as np
import pytest

from mlp_lightning.data.array.files import ArrayFiles
from mlp_lightning.data.module import DataModule
from mlp_lightning.data.sources.part_names import array_name, part_of
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.inputs import Reader
from mlp_lightning.predicting.model import load

RNG = np.random.default_rng(0)


def samples(n, low=0.0):
    """n samples that begin at ``low``, to tell parts from each other."""
    return low + RNG.random((n, 4))


def labels(n):
    return np.arange(n) % 2


def module(folder, place="it.npz", options=None, **arrays):
    if place.endswith(".npz"):
        np.savez(folder / place, **arrays)
    else:
        (folder / place).mkdir()
        for name, array in arrays.items():
            np.save(folder / place / f"{name}.npy", array)
    return DataModule(dataset="arrays", root=str(folder / place), **(options or {}))


def counts(module):
    return [int(count.sum()) for count in module.part_counts.values()]


NAMES = {
    "ours": ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
    "whole and parts": ("x", "y", "x_valid", "y_valid", "x_test", "y_test"),
    "capital": ("X_train", "y_train", "X_val", "y_val", "X_test", "y_test"),
    "capital, whole": ("X", "y", "Xval", "yval", "Xtest", "ytest"),
    "camel case": ("trainX", "trainY", "validX", "validY", "testX", "testY"),
    "images": ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
    "words": ("data", "target", "validation_data", "validation_targets", "testing-data", "testing-target"),
    "short": ("X_tr", "y_tr", "X_dev", "y_dev", "X_te", "y_te"),
}


@pytest.mark.parametrize("place", ["it.npz", "folder"])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_every_part_is_used(tmp_path, capsys, place, names):
    x, y, x_val, y_val, x_test, y_test = names
    sets = {x: samples(40), y: labels(40), x_val: samples(10, 2), y_val: labels(10)}
    it = module(tmp_path, place, **sets, **{x_test: samples(20, 4), y_test: labels(20)})
    it.setup("fit")
    assert counts(it) == [40, 10, 20]
    assert np.array_equal(it.data.train_x.numpy(), sets[x].astype("f4"))
    assert np.array_equal(it.data.val_x.numpy(), sets[x_val].astype("f4"))
    assert float(it.data.test_x.min()) >= 4
    assert capsys.readouterr().err == ""


def test_validation_samples_are_those_that_validate(tmp_path, run_files):
    sets = {"x": samples(40), "y": labels(40), "x_val": samples(12), "y_val": np.array(["0"] * 9 + ["1"] * 3)}
    np.savez(tmp_path / "it.npz", **sets)
    folder = run_files("fit", "--data.dataset", "arrays", "--data.root", tmp_path / "it.npz")
    predictions = (folder / "metrics.json").read_text()
    assert '"val/accuracy"' in predictions
    again = run_files("validate", "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    assert '"val/class_accuracy"' in (again / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"validation_size": 0.2}, r"data\.validation_size: got 0\.2, but .*it\.npz has 10 validation samples"),
        ({"validation": "per_batch", "shuffle": False}, r"data\.validation: got per_batch, but .* 10 validation samp"),
    ],
)
def test_no_share_is_held_out_beside_them(tmp_path, options, expected):
    it = module(tmp_path, options=options, x=samples(40), y=labels(40), x_val=samples(10), y_val=labels(10))
    with pytest.raises(UserError, match=expected):
        it.setup("fit")


def test_samples_that_are_not_used_are_told(tmp_path, capsys):
    sets = {"x": samples(40), "y": labels(40), "x_val": samples(10), "y_val": labels(10)}
    it = module(tmp_path, options={"validation": "none"}, **sets, ids=np.arange(40), weights=np.ones(40))
    assert counts(it) == [32, 0, 8]
    err = capsys.readouterr().err
    assert "left out, since it is neither samples nor labels: ids, weights" in err
    assert "data.validation is none: the 10 validation samples of" in err


def test_another_test_set_takes_the_place_of_the_own_one(tmp_path, capsys):
    np.savez(tmp_path / "other.npz", X=samples(6), y=labels(6))
    sets = {"x": samples(40), "y": labels(40), "x_test": samples(10), "y_test": labels(10)}
    it = module(tmp_path, options={"test_path": str(tmp_path / "other.npz")}, **sets)
    assert counts(it)[2] == 6
    assert "its test samples are left out, since data.test_path is the test set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("x", "y", "x_train", "y_train"), "must have x_train or x, and not both"),
        (("x", "X", "y"), "has X and x, must have one of them|has x and X, must have one of them"),
        (("images", "data", "y"), "must have one of them: which one counts cannot be told"),
        (("x", "y", "y_test"), "has y_test, but not its samples"),
        (("x", "y", "x_test"), "has no array y_test"),
        (("x_train", "y_train", "x_val"), "has no array y_val"),
        (("x_test", "y_test"), "has no array x_train"),
        (("arr_0", "arr_1"), "has no array x_train; must have x and y, or .*; it has arr_0, arr_1"),
    ],
)
def test_files_that_are_neither_form_are_refused(tmp_path, names, expected):
    with pytest.raises(UserError, match=expected) as caught:
        module(tmp_path, **{name: samples(10) if "y" not in name else labels(10) for name in names}).data  # noqa: B018
    assert "\n" not in str(caught.value)


def test_names_of_folders_and_arrays():
    train = ("train", "Training", "TRAIN", "trainingSet", "training_set", "trainset", "train-images", "Training Data")
    assert {part_of(name) for name in train} == {"train"}
    assert {part_of(name) for name in ("val", "Valid", "validation", "VALIDATION_SET", "dev")} == {"val"}
    assert {part_of(name) for name in ("test", "Testing", "testSet", "test_images")} == {"test"}
    others = ("cat", "trainer", "testament", "1", "", "train2", "te", "valley", "latest", "contest set")
    assert {part_of(name) for name in others} == {None}
    assert {array_name(name) for name in ("arr_0", "names", "train", "x2", "xy", "test_ids", "")} == {None}


def test_predict_says_which_samples_it_takes(tmp_path, write_checkpoint, capsys):
    it = module(tmp_path, X_train=samples(40), y_train=labels(40), X_test=samples(20), y_test=labels(20))
    path = write_checkpoint(tmp_path / "it.ckpt", MLP([4, 2]), it.data.preprocessing, it.data.class_names)
    (part,) = Reader(load(path)).parts(str(tmp_path / "it.npz"))
    assert np.array_equal(part.x.numpy(), it.data.test_x.numpy())
    assert part.labels == [str(label) for label in labels(20)]
    assert "X_test is predicted, 1 other part is left out" in capsys.readouterr().err


@pytest.fixture
def forged(tmp_path):
    """An archive whose array x claims to be larger than it is."""

    def write(shape):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "it.npz", "w") as archive:
            archive.writestr("x.npy", header.getvalue() + bytes(640))
            held = io.BytesIO()
            np.save(held, labels(10))
            archive.writestr("y.npy", held.getvalue())
        return tmp_path / "it.npz"

    return write


@pytest.mark.parametrize("shape", [(10, 10**12), (10**15,), (2**40, 2**40)])
def test_a_header_that_promises_more_than_there_is_allocates_nothing(forged, shape):
    place = forged(shape)
    with pytest.raises(UserError, match=r"it\.npz, x: .*cut off: its header says"):
        DataModule(dataset="arrays", root=str(place)).data  # noqa: B018


def test_an_archive_that_unpacks_to_much_is_refused_by_its_headers(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "it.npz", x=np.zeros((100, 10_000), "u1"), y=labels(100))
    assert (tmp_path / "it.npz").stat().st_size < 10_000
    # As float32 and 100 labels of 8 bytes.
    assert ArrayFiles(tmp_path / "it.npz", 4_000_800).read(None)[0].x.shape == (100, 10_000)

    def unpacked(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(np.lib.format, "read_array", unpacked)
    with pytest.raises(
        UserError, match=r"it\.npz: its arrays take 4 MB of memory, must be at most 4 \(data\.memory_bu"
    ):
        ArrayFiles(tmp_path / "it.npz", 4_000_799).read(None)
