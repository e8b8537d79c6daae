"""The scale of arrays belongs to the training: the same numbers in another type give the same rows, or a refusal."""

import numpy as np
import pytest
import torch

from mlp_lightning.data.module import DataModule
from mlp_lightning.data.preprocessing import ArrayPreprocessing, ImagePreprocessing, preprocessing_from
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.inputs import Reader
from mlp_lightning.predicting.model import load

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
BYTES = RNG.integers(0, 256, (60, 12))
SHAPES = {"rows": (60, 12), "images": (60, 3, 4), "one channel": (60, 3, 4, 1), "colour": (60, 2, 2, 3)}
WHOLE_TYPES = ["u1", "u2", "i2", "i8", ">i4", ">u2"]


def data_of(folder, **arrays):
    np.savez(folder / "it.npz", **arrays)
    return DataModule(dataset="arrays", root=str(folder / "it.npz")).data


def in_test_file(folder, data, x):
    """The rows of another test file by what a training of ``data`` keeps."""
    np.savez(folder / "other.npz", x=x, y=Y)
    module = DataModule(dataset="arrays", root="gone", test_path=str(folder / "other.npz"))
    module.read_as(data.description())
    module.setup("test")
    return module.data.test_x.numpy()


def predicted(folder, data, x, write_checkpoint):
    path = write_checkpoint(folder / "it.ckpt", MLP([data.n_features, 3]), data.preprocessing, data.class_names)
    found = [part.x for part in Reader(load(path)).parts(x)]
    return torch.cat(found).numpy()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("of_test", WHOLE_TYPES)
@pytest.mark.parametrize("of_training", ["u1", "i8", "f4"])
def test_the_same_numbers_of_another_type_give_the_same_rows(tmp_path, write_checkpoint, of_training, of_test, shape):
    x = BYTES.reshape(shape)
    data = data_of(tmp_path, x_train=x.astype(of_training), y_train=Y, x_test=x.astype(of_test), y_test=Y)
    expected = BYTES / np.float32(255) if of_training == "u1" else BYTES
    for rows in (data.train_x.numpy(), data.test_x.numpy(), in_test_file(tmp_path, data, x.astype(of_test))):
        np.testing.assert_array_equal(rows, expected.astype("f4"))
    np.testing.assert_array_equal(predicted(tmp_path, data, x.astype(of_test), write_checkpoint), expected.astype("f4"))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("other", [BYTES.astype("f4"), BYTES + 1, BYTES - 1, BYTES / 254], ids=range(4))
def test_bytes_teach_a_scale_that_other_numbers_do_not_have(tmp_path, write_checkpoint, other, shape):
    data = data_of(tmp_path, x=BYTES.astype("u1").reshape(shape), y=Y)
    other = other.reshape(shape)
    with pytest.raises(UserError, match=r"other\.npz, x, row \d+, column \d+: got .*, must be"):
        in_test_file(tmp_path, data, other)
    with pytest.raises(UserError, match=r"the array, row \d+, column \d+: got .*, must be"):
        predicted(tmp_path, data, other, write_checkpoint)
    with pytest.raises(UserError, match=r"x_test, row \d+, column \d+: got .*, must be"):
        data_of(tmp_path, x_train=BYTES.astype("u1").reshape(shape), y_train=Y, x_test=other, y_test=Y)
    # Bytes that were divided already are fractions, and are taken as such.
    fractions = (BYTES / 255).reshape(shape)
    expected = fractions.reshape(60, 12).astype("f4")
    np.testing.assert_array_equal(predicted(tmp_path, data, fractions, write_checkpoint), expected)


@pytest.mark.parametrize("of_test", [*WHOLE_TYPES, "?", "f2", "f8"])
@pytest.mark.parametrize("of_training", ["u1", "i8", "?", "f4"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_truth_values_are_0_and_1_in_every_type(tmp_path, write_checkpoint, of_training, of_test, shape):
    x = (BYTES > 127).reshape(shape)
    data = data_of(tmp_path, x_train=x.astype(of_training), y_train=Y, x_test=x.astype(of_test), y_test=Y)
    for rows in (data.train_x.numpy(), data.test_x.numpy(), in_test_file(tmp_path, data, x.astype(of_test))):
        np.testing.assert_array_equal(rows, x.reshape(60, 12))
    np.testing.assert_array_equal(predicted(tmp_path, data, x.astype(of_test), write_checkpoint), x.reshape(60, 12))


def test_fractions_of_images_are_bytes_that_were_divided(tmp_path, write_checkpoint):
    x = (BYTES / 255).reshape(60, 3, 4).astype("f4")
    data = data_of(tmp_path, x=x, y=Y)
    for dtype in WHOLE_TYPES:
        found = predicted(tmp_path, data, BYTES.reshape(60, 3, 4).astype(dtype), write_checkpoint)
        np.testing.assert_array_equal(found, x.reshape(60, 12))


@pytest.mark.parametrize("dtype", WHOLE_TYPES)
def test_fractions_in_rows_refuse_whole_numbers_of_another_scale(tmp_path, write_checkpoint, dtype):
    data = data_of(tmp_path, x=BYTES / 255, y=Y)
    with pytest.raises(UserError, match=r"got \d+, but the numbers of the training were from 0 to 1"):
        predicted(tmp_path, data, BYTES.astype(dtype), write_checkpoint)


@pytest.mark.parametrize(
    ("training", "other"),
    [
        (BYTES / 255, BYTES.astype("f4")),
        (BYTES / 127.5 - 1, BYTES.astype("f4")),
        (BYTES.astype("f4"), BYTES / 255),
        (BYTES, BYTES / 255),
        (BYTES.reshape(60, 3, 4) * 257, BYTES.reshape(60, 3, 4)),
    ],
    ids=["fractions", "around 0", "floats", "whole numbers", "16 bits"],
)
def test_a_range_that_hardly_fits_is_told(tmp_path, write_checkpoint, capsys, training, other):
    data = data_of(tmp_path, x=training, y=Y)
    predicted(tmp_path, data, training, write_checkpoint)
    assert capsys.readouterr().err == ""
    predicted(tmp_path, data, other, write_checkpoint)
    assert f"the array: its numbers reach {other.max():g}, but those of the training {training.max():g}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("training", [BYTES, BYTES.astype("u1").reshape(60, 3, 4)], ids=["rows", "images"])
def test_what_float32_cannot_hold_is_named_in_every_command(tmp_path, write_checkpoint, training, value):
    data = data_of(tmp_path, x=training, y=Y)
    x = np.zeros(training.shape)
    x.reshape(60, 12)[41, 5] = value
    for read in (in_test_file, lambda *arguments: predicted(*arguments, write_checkpoint)):
        with pytest.raises(UserError) as caught:
            read(tmp_path, data, x)
        assert f"row 41, column 5: got {value}, must be finite" in str(caught.value)


def test_a_checkpoint_that_does_not_tell_its_scale_is_read_as_it_was():
    image, array = ({"kind": "image", "height": 2, "width": 3, "channels": 1}, {"kind": "array", "n_features": 6})
    assert preprocessing_from(image) == ImagePreprocessing(2, 3, divisor=None)
    assert preprocessing_from(array) == ArrayPreprocessing(6)
    with pytest.raises(UserError, match="divisor 7"):
        preprocessing_from({**array, "divisor": 7})


@pytest.mark.parametrize(
    ("dtype", "scale"), [("u1", 255), ("i8", 1), ("f4", 1)], ids=["bytes", "whole numbers", "fractions"]
)
@pytest.mark.parametrize("kind", [ImagePreprocessing(3, 4, divisor=None), ArrayPreprocessing(12)])
def test_an_old_checkpoint_divides_bytes_alone(tmp_path, write_checkpoint, kind, dtype, scale):
    x = (BYTES > 127).astype(dtype)
    path = write_checkpoint(tmp_path / "it.ckpt", MLP([12, 3]), kind, ("a", "b", "c"))
    (part,) = Reader(load(path)).parts(x)
    np.testing.assert_array_equal(part.x.numpy(), x / np.float32(scale))


SAMPLES = {
    "rows": BYTES.astype("u1"),
    "fractions": BYTES.reshape(60, 3, 4) / 255,
    "one channel of bytes": BYTES.reshape(60, 3, 4, 1).astype("u1"),
    "whole numbers in a plane": BYTES.reshape(60, 3, 4),
    "colour that is no pixels": RNG.normal(size=(60, 2, 2, 3)),
    "one channel that is no pixels": RNG.normal(size=(60, 3, 4, 1)),
}


@pytest.mark.parametrize("x", SAMPLES.values(), ids=SAMPLES)
def test_predict_takes_every_array_that_fit_took(tmp_path, write_checkpoint, x):
    data = data_of(tmp_path, x_train=x, y_train=Y, x_test=x, y_test=Y)
    expected = data.test_x.numpy()
    np.savez(tmp_path / "same.npz", x=x, y=Y)
    np.save(tmp_path / "same.npy", x)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", x)
    inputs = [x, torch.tensor(x), x.reshape(60, -1), np.asfortranarray(x)]
    inputs += [str(tmp_path / name) for name in ("it.npz", "same.npz", "same.npy", "folder")]
    for each in inputs:
        np.testing.assert_array_equal(predicted(tmp_path, data, each, write_checkpoint), expected)
    np.testing.assert_array_equal(predicted(tmp_path, data, x[7], write_checkpoint), expected[7:8])


def test_images_of_another_shape_are_not_scrambled(tmp_path, write_checkpoint):
    for x in (BYTES.reshape(60, 3, 4), BYTES.reshape(60, 3, 4).astype("u1")):
        data = data_of(tmp_path, x=x, y=Y)
        turned = x.transpose(0, 2, 1)
        for read in (in_test_file, lambda *arguments: predicted(*arguments, write_checkpoint)):
            with pytest.raises(UserError, match=r"\(4, 3\)|\(60, 4, 3\)"):
                read(tmp_path, data, turned)
