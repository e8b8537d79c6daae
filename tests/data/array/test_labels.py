"""Labels of every type and shape that arrays have."""

import numpy as np
import pytest

from mlp_lightning.data.array.labels import label_cells
from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.inputs import Reader
from mlp_lightning.predicting.model import load

Y = np.arange(60) % 3
X = np.random.default_rng(0).random((60, 4))
TEXTS = np.array(["bird", "cat", "dög"])[Y]

FORMS = {
    "numbers": (Y, Y),
    "bytes of eight bits": (Y.astype("u1"), Y),
    "big end first": (Y.astype(">i2"), Y),
    "floats": (Y.astype("f4"), Y),
    "one column": (Y[:, None], Y),
    "one column of texts": (TEXTS[:, None], TEXTS),
    "texts": (TEXTS, TEXTS),
    "bytes": (np.array([text.encode() for text in TEXTS]), TEXTS),
    "one-hot": (np.eye(3)[Y], Y),
    "one-hot, truth values": (np.eye(3, dtype=bool)[Y], Y),
    "one-hot, bytes": (np.asfortranarray(np.eye(3, dtype="u1")[Y]), Y),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_those_of_the_array(form):
    y, expected = FORMS[form]
    assert label_cells(y, "y") == expected.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_fit_and_predict_read_them_alike(tmp_path, write_checkpoint, form):
    y, expected = FORMS[form]
    np.savez(tmp_path / "it.npz", x_train=X, y_train=y, x_test=X, y_test=y)
    data = DataModule(dataset="arrays", root=str(tmp_path / "it.npz")).data
    names = np.unique(expected)
    assert data.class_names == tuple(map(str, names))
    assert data.train_y.tolist() == data.test_y.tolist() == np.searchsorted(names, expected).tolist()
    path = write_checkpoint(tmp_path / "it.ckpt", MLP([4, 3]), data.preprocessing, data.class_names)
    (part,) = Reader(load(path)).parts(str(tmp_path / "it.npz"))
    assert part.labels == [str(label) for label in expected]


TWICE = np.eye(3)[Y]
TWICE[7, :2] = 1
NONE = np.eye(3)[Y]
NONE[8] = 0


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (TWICE, "y, row 7: the shape is (60, 3), but the row is not one-hot"),
        (NONE, "y, row 8: the shape is (60, 3), but the row is not one-hot"),
        (np.full((60, 3), 1 / 3), "y, row 0: the shape is (60, 3), but the row is not one-hot"),
        (np.stack([Y, Y], 1) + 2, "y, row 0: the shape is (60, 2), but the row is not one-hot"),
        (np.full((60, 3), np.nan), "y, row 0: the shape is (60, 3), but the row is not one-hot"),
        (np.stack([TEXTS, TEXTS], 1), "y, row 0: the shape is (60, 2), but the row is not one-hot"),
        (np.zeros((60, 0)), "y: has the shape (60, 0)"),
        (np.zeros((60, 1, 1)), "y: has the shape (60, 1, 1)"),
        (Y + 0j, "the type complex128"),
        (Y.astype("M8[s]"), "the type datetime64[s]"),
        (np.array([b"\xff"] * 60), "y: holds bytes that are no UTF-8 text"),
        (np.where(Y == 1, "", TEXTS), "y, row 1: the label is missing"),
        (Y[:59], "60 samples, but"),
        (X[:, 0] * 100, "this looks like a quantity to estimate"),
        (np.round(X[:, :1] * 100, 1), "this looks like a quantity to estimate"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, y, expected):
    np.savez(tmp_path / "it.npz", x=X, y=y)
    with pytest.raises(UserError) as caught:
        DataModule(dataset="arrays", root=str(tmp_path / "it.npz")).data  # noqa: B018
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
