"""Inputs of every kind as rows; those that do not fit, by their error."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning.data.preprocessing import (
    ArrayPreprocessing,
    CategoricalColumn,
    ImagePreprocessing,
    NumericColumn,
    TablePreprocessing,
)
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.inputs import Reader, part
from mlp_lightning.predicting.model import load

KINDS = {
    "grey": ImagePreprocessing(2, 3),
    "colour": ImagePreprocessing(2, 3, 3),
    "array": ArrayPreprocessing(4),
    "table": TablePreprocessing((NumericColumn("age", 40, 10), CategoricalColumn("city", ("Bonn", "Rome"))), "ill"),
}
RNG = np.random.default_rng(0)


@pytest.fixture
def read(tmp_path, monkeypatch, write_checkpoint):
    """All parts of an input for a model of some kind; files are meant in a folder of their own."""
    monkeypatch.chdir(tmp_path)

    def parts(kind, inputs, **options):
        preprocessing = KINDS[kind]
        network = MLP([preprocessing.n_features, 2])
        write_checkpoint(tmp_path / "it.ckpt", network, preprocessing, ("no", "yes"))
        reader = Reader(load("it.ckpt"), **options)
        return list(reader.parts(inputs)), reader.unreadable

    return parts


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_pictures_of_files_folders_and_pillow(read, tmp_path, kind):
    pixels = RNG.integers(0, 256, (3, *KINDS[kind].image_shape), dtype="u1")
    (tmp_path / "more").mkdir()
    for name, image in zip(("a.png", "more/b.png"), pixels, strict=False):
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "more" / "notes.md").write_text("not a picture")
    (found,), unreadable = read(kind, ["a.png", "more", Image.fromarray(pixels[2])])
    assert np.array_equal(found.x, pixels.reshape(3, -1) / np.float32(255))
    assert found.files == ["a.png", "more/b.png", ""]
    assert found.rows == found.labels == [None] * 3
    assert unreadable == []


def test_one_path_and_one_picture_need_no_list(read, tmp_path):
    image = Image.fromarray(np.full((2, 3), 51, dtype="u1"))
    image.save(tmp_path / "a.png")
    for single in ("a.png", tmp_path / "a.png", image):
        (found,), _ = read("grey", single)
        assert torch.equal(found.x, torch.full((1, 6), 0.2))


def test_invert_without_centring(read):
    image = Image.fromarray(np.full((2, 3), 51, dtype="u1"))
    assert [float(read("grey", image, invert=how)[0][0].x[0, 0]) for how in ("auto", "never", "always")] == (
        pytest.approx([0.2, 0.2, 0.8])
    )


def test_unreadable_pictures_are_listed_and_left_out(read, tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "c.png").write_text("text")
    (found,), unreadable = read("grey", ".")
    assert found.files == ["b.png"]
    assert [line.partition(":")[0] for line in unreadable] == ["a.png", "c.png"]


def test_parts_are_bounded(read, monkeypatch):
    monkeypatch.setattr(part, "MOST_VALUES", 20)
    for inputs in (np.zeros((8, 6), "f4"), [Image.new("L", (3, 2))] * 8):
        assert [len(found.x) for found in read("grey", inputs)[0]] == [3, 3, 2]


@pytest.mark.parametrize(
    "make",
    [lambda a: a, lambda a: a.reshape(-1, 2, 3), lambda a: torch.tensor(a), lambda a: a.astype("f8")],
    ids=["flat", "images", "tensor", "float64"],
)
def test_arrays_are_taken_as_they_are(read, make):
    pixels = RNG.random((5, 6)).astype("f4")
    (found,), _ = read("grey", make(pixels))
    assert np.array_equal(found.x, pixels)
    assert found.rows == [0, 1, 2, 3, 4]


def test_bytes_are_divided_by_255_and_a_single_sample_is_one(read):
    pixels = RNG.integers(0, 256, (2, 3), dtype="u1")
    for single in (pixels, pixels.reshape(6), torch.tensor(pixels)):
        (found,), _ = read("grey", single)
        assert np.array_equal(found.x, pixels.reshape(1, 6) / np.float32(255))


def test_files_of_arrays_with_labels(read, tmp_path):
    x = RNG.random((3, 4)).astype("f4")
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", x_test=x, y_test=np.array(["yes", "no", ""]), x_train=x[:1])
    np.savez(tmp_path / "c.npz", anything=x)
    parts, _ = read("array", ["a.npy", "b.npz", "c.npz"])
    assert all(np.array_equal(found.x, x) for found in parts)
    assert [found.files[0] for found in parts] == ["a.npy", "b.npz", "c.npz"]
    assert [found.labels for found in parts] == [[None] * 3, ["yes", "no", None], [None] * 3]


def write_table(path, header, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_tables_by_file_dict_and_frame(read, tmp_path):
    import pandas as pd

    write_table(tmp_path / "a.csv", ["ill", "city", "id", "age"], ["yes", "Rome", 7, 50], ["", "Bonn", 8, 30])
    expected = torch.tensor([[1.0, 0, 1], [-1, 1, 0]])
    (found,), _ = read("table", "a.csv")
    assert torch.equal(found.x, expected)
    assert (found.rows, found.labels) == ([2, 3], ["yes", None])
    columns = {"age": [50, 30], "city": ["Rome", "Bonn"]}
    for frame in (columns, pd.DataFrame(columns, index=[5, 3])):
        assert torch.equal(read("table", frame)[0][0].x, expected)


def refusals(tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((3, 5), "f4"))
    np.save(tmp_path / "nan.npy", np.array([[0, 0, 0, 0], [0, 0, np.nan, 0]], "f4"))
    np.save(tmp_path / "text.npy", np.array([["a"] * 4]))
    np.save(tmp_path / "objects.npy", np.array([[{}] * 4]), allow_pickle=True)
    np.save(tmp_path / "none.npy", np.zeros((0, 4), "f4"))
    np.save(tmp_path / "number.npy", np.float32(3))
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 and no more")
    np.savez(tmp_path / "two.npz", a=np.zeros((1, 4)), b=np.zeros((1, 4)))
    np.savez(tmp_path / "few.npz", x=np.zeros((2, 4)), y=np.zeros(3))
    np.savez(tmp_path / "label.npz", x=np.zeros((2, 4)), y=np.array(["no", "maybe"]))
    np.save(tmp_path / "bright.npy", np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 2.5, 0, 0]], "f4"))
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    write_table(tmp_path / "city.csv", ["age", "city"], [50, "Rome"], [30, "Oslo"])
    write_table(tmp_path / "age.csv", ["age", "city"], [50, "Rome"], ["old", "Rome"])
    write_table(tmp_path / "lacks.csv", ["age", "town"], [50, "Rome"])
    write_table(tmp_path / "ill.csv", ["age", "city", "ill"], [50, "Rome", "perhaps"])
    (tmp_path / "empty").mkdir()


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("array", "wide.npy", r"wide.npy: has the shape \(3, 5\), must be \(N, 4\) for it.ckpt"),
        ("array", "nan.npy", "nan.npy, row 1, column 2: got nan, must be finite"),
        ("array", "text.npy", "text.npy: holds <U1, must be numbers"),
        ("array", "objects.npy", "objects.npy: holds Python objects"),
        ("array", "none.npy", "none.npy: has no rows"),
        ("array", "number.npy", r"number.npy: has the shape \(\)"),
        ("array", "broken.npz", "broken.npz: cannot be read as a NumPy file"),
        ("array", "two.npz", "two.npz: has the arrays a, b, must have x or x_test"),
        ("array", "few.npz", "few.npz: y has 3 labels, must have 2"),
        ("array", "label.npz", "label.npz, row 1 of y: got 'maybe', which is no class"),
        ("array", "a.png", "a.png: cannot be used, it.ckpt takes arrays"),
        ("array", "city.csv", "city.csv: cannot be used, it.ckpt takes arrays"),
        ("array", {"a": [1]}, "columns of a table: cannot be used"),
        ("grey", "bright.npy", r"bright.npy, row 1, column 3: got 2.5, must be in \[0, 1\]"),
        ("grey", np.zeros((3, 2), "f4"), r"the array: has the shape \(3, 2\), must be \(N, 6\) or \(N, 2, 3\)"),
        ("grey", "city.csv", "city.csv: cannot be used, it.ckpt takes grey pictures of 2 × 3"),
        ("grey", "none.png", "input: there is no file none.png"),
        ("grey", "empty", "input: there is no picture in the folder empty"),
        ("grey", [], "input: got nothing"),
        ("table", "city.csv", "city.csv, line 3, column 'city': got 'Oslo'"),
        ("table", "age.csv", "age.csv, line 3, column 'age': got 'old'"),
        ("table", "lacks.csv", "lacks.csv has no column 'city'"),
        ("table", "ill.csv", "ill.csv, line 2, column 'ill': got 'perhaps', which is no class"),
        ("table", "nan.npy", "nan.npy: cannot be used, it.ckpt takes tables"),
        ("table", "a.png", "a.png: cannot be used, it.ckpt takes tables"),
    ],
)
def test_what_does_not_fit_is_named(read, tmp_path, kind, inputs, message):
    refusals(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read(kind, inputs)
    assert "\n" not in str(caught.value)


def test_centring_is_for_pictures_as_mnists(read):
    with pytest.raises(UserError, match=r"^center: got true, must be false for it.ckpt, .* 2 × 3 pixels"):
        read("grey", [], center=True)


def test_pictures_that_pillow_cannot_read_are_errors_that_name_them(read):
    _, unreadable = read("grey", [object()])
    assert unreadable[0].startswith("the picture: cannot be read as a picture (")
