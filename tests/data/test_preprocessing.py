import json

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlp_lightning.data.preprocessing import (
    ArrayPreprocessing,
    CategoricalColumn,
    ImagePreprocessing,
    NumericColumn,
    TablePreprocessing,
    preprocessing_from,
)
from mlp_lightning.errors import UserError

TABLE = TablePreprocessing(
    (
        NumericColumn("size", 2.0, 4.0, fill=6.0),
        CategoricalColumn("colour", ("blue", "red"), fill="red", unknown="zero"),
        NumericColumn("round", 0.5, 0.5, truth=True),
        CategoricalColumn("kind", ("a", "b")),
    ),
    "label",
)


@pytest.mark.parametrize(
    "preprocessing",
    [ImagePreprocessing(3, 4), ImagePreprocessing(3, 4, 3), ArrayPreprocessing(7), TABLE],
    ids=["grey", "colour", "array", "table"],
)
def test_plain_values_give_the_same_again(preprocessing):
    values = json.loads(json.dumps(preprocessing.to_dict()))
    assert preprocessing_from(values) == preprocessing
    assert values["kind"] == preprocessing.kind


def test_the_width_is_that_of_the_rows_and_names():
    frame = {"size": ["1"], "colour": ["red"], "round": ["no"], "kind": ["b"]}
    assert TABLE.rows(frame).shape == (1, TABLE.n_features) == (1, len(TABLE.feature_names))
    assert TABLE.feature_names == ("size", "colour=blue", "colour=red", "round", "kind=a", "kind=b")
    assert ImagePreprocessing(3, 4, 3).n_features == 36
    assert (ImagePreprocessing(3, 4).image_shape, ImagePreprocessing(3, 4, 3).image_shape) == ((3, 4), (3, 4, 3))


def test_cells_become_numbers():
    frame = {
        "size": ["10", " 2e0", "", "?"],
        "colour": ["blue", "green", "NA", "red"],
        "round": ["True", "no", "1", "F"],
        "kind": ["a", "b", "a", "b"],
        "more": ["x"] * 4,
    }
    expected = [[2, 1, 0, 1, 1, 0], [0, 0, 0, -1, 0, 1], [1, 0, 1, 1, 1, 0], [1, 0, 1, -1, 0, 1]]
    rows = TABLE.rows(frame)
    assert rows.dtype == np.float32
    assert rows.tolist() == expected


def test_a_pandas_frame_and_numbers_give_what_texts_do():
    texts = {
        "size": ["1.5", "2", ""],
        "colour": ["red", "blue", ""],
        "round": ["true", "false", "true"],
        "kind": list("aba"),
    }
    frame = pd.DataFrame(
        {"size": [1.5, 2, np.nan], "colour": ["red", "blue", None], "round": [True, False, True], "kind": list("aba")},
        index=[7, 3, 5],
    )
    assert np.array_equal(TABLE.rows(frame), TABLE.rows(texts))


def test_rows_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(5, 3, 40), "b": rng.choice(["x", "y", "z"], 40), "c": rng.integers(0, 9, 40)})
    columns = (
        NumericColumn("a", frame["a"].mean(), frame["a"].std(ddof=0)),
        CategoricalColumn("b", ("x", "y", "z")),
        NumericColumn("c", frame["c"].mean(), frame["c"].std(ddof=0)),
    )
    steps = [
        ("a", StandardScaler(), ["a"]),
        ("b", OneHotEncoder(sparse_output=False), ["b"]),
        ("c", StandardScaler(), ["c"]),
    ]
    expected = ColumnTransformer(steps).fit_transform(frame)
    np.testing.assert_allclose(TablePreprocessing(columns).rows(frame), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": ["1", "many"]}, "f.csv, line 5, column 'size': got 'many', must be a number"),
        ({"size": ["inf", "1"]}, "f.csv, line 2, column 'size': got 'inf', must be finite"),
        ({"size": ["1", "1_0"]}, "f.csv, line 5, column 'size': got '1_0', must be a number"),
        ({"round": ["true", "maybe"]}, "f.csv, line 5, column 'round': got 'maybe', must be true or false"),
        ({"round": ["true", "2"]}, "f.csv, line 5, column 'round': got '2', must be true or false"),
        ({"round": ["", "true"]}, "f.csv, line 2, column 'round': the value is missing"),
        ({"kind": ["a", "c"]}, "f.csv, line 5, column 'kind': got 'c', which no training row has"),
        ({"kind": ["", "a"]}, "f.csv, line 2, column 'kind': the value is missing"),
        ({"kind": None}, "f.csv has no column 'kind'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_wrong_cell_is_named(changed, message):
    frame = {"size": ["1", "2"], "colour": ["red"] * 2, "round": ["yes"] * 2, "kind": ["a"] * 2, **changed}
    frame = {name: cells for name, cells in frame.items() if cells is not None}
    with pytest.raises(UserError) as caught:
        TABLE.rows(frame, "f.csv", [2, 5])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_another_kind_is_refused():
    with pytest.raises(UserError, match="'sound', must be image, table or array"):
        preprocessing_from({"kind": "sound"})
