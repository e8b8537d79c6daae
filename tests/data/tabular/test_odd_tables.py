"""Tables as other programs write them, from the file to features; pandas and scikit-learn give the right values."""

import csv

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler

from mlp_lightning.data.module import DataModule
from mlp_lightning.data.preprocessing import preprocessing_from
from mlp_lightning.data.tabular.tables import read_table
from mlp_lightning.errors import UserError

N = 24


def write(path, header, rows, separator=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return path


def learn(path, **options):
    """What is learned of all rows, which also test."""
    return DataModule(
        **{"dataset": "csv", "root": str(path), "label": "y", "validation": "none", "test_path": str(path), **options}
    ).data


def test_decimal_commas_give_the_features_of_points(tmp_path, capsys):
    values = np.random.default_rng(0).normal(0, 2000, (N, 2)).round(2)
    y = [k % 2 for k in range(N)]
    comma = [[f"{a:,}".translate(str.maketrans(",.", ".,")), f"{b} €".replace(".", ",")] for a, b in values.tolist()]
    path = write(tmp_path / "it.csv", ["a", "b", "y"], [[*row, k] for row, k in zip(comma, y, strict=True)], ";")
    data = learn(path)
    np.testing.assert_allclose(data.train_x, StandardScaler().fit_transform(values), rtol=1e-5, atol=1e-6)
    assert "it.csv: numbers are read as they are written there: a like '1.234,5', b like '1234,5€'" in (
        capsys.readouterr().err
    )
    held = preprocessing_from(data.description()["preprocessing"])
    assert held == data.preprocessing
    points = {"a": [str(a) for a, _ in values.tolist()], "b": [f"{b} €" for _, b in values.tolist()]}
    with pytest.raises(UserError, match=r"column 'a': got .*, must be a number written like '1.234,5'"):
        held.rows(points)
    np.testing.assert_array_equal(held.rows({"a": values[:, 0], "b": values[:, 1]}), data.train_x)


def test_how_numbers_are_written_is_seen_in_the_whole_table(tmp_path):
    rows = [[f"{k},5" if k == 3 else k, "yes" if k == 5 else "no", k % 2] for k in range(N)]
    path = write(tmp_path / "it.csv", ["a", "b", "y"], rows, ";")
    for seed in range(3):
        data = DataModule(dataset="csv", root=str(path), label="y", seed=seed, validation_size=8, test_seed=seed).data
        assert data.preprocessing.feature_names == ("a", "b")


@pytest.mark.parametrize("words", [("F", "N"), ("T", "Y"), ("yes", "true"), ("N", "false")])
def test_words_of_no_pair_are_two_features(tmp_path, capsys, words):
    path = write(tmp_path / "it.csv", ["a", "y"], [[words[k % 2], k % 2] for k in range(N)])
    x = learn(path).train_x
    assert sorted(map(tuple, x.unique(dim=0).tolist())) == [(0, 1), (1, 0)]
    assert "taken as categories" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["mean", "median", "most_frequent"])
def test_the_text_na_is_filled_in_and_told(tmp_path, capsys, missing):
    path = write(tmp_path / "it.csv", ["a", "y"], [[["NA", "EU", "EU", "AS"][k % 4], k % 2] for k in range(N)])
    assert learn(path, missing=missing).preprocessing.feature_names == ("a=AS", "a=EU")
    assert f"{path}: missing cells filled in: a {N // 4} (by EU)" in capsys.readouterr().err


def test_codes_keep_their_text(tmp_path):
    codes = ["01", "1", "1E3", "1000", "007", "1.0"]
    path = write(tmp_path / "it.csv", ["a", "y"], [[codes[k % 6], codes[k % 6]] for k in range(60)])
    data = learn(path, categorical=["a"])
    assert data.preprocessing.columns[0].categories == tuple(sorted(codes))
    assert set(data.class_names) == set(codes)


@pytest.mark.parametrize("dtype", ["float64", "Int64", "category", "object", "float32"])
def test_codes_that_pandas_writes_as_floats_are_the_same(tmp_path, dtype):
    codes = [k % 3 + 1 for k in range(N)]
    path = write(tmp_path / "it.csv", ["a", "y"], [[code, k % 2] for k, code in enumerate(codes)])
    kind = learn(path, categorical=["a"], missing="most_frequent").preprocessing
    gaps = [None, *codes[1:]]
    series = pd.Series(gaps, dtype="float64" if dtype in ("category", "float32") else dtype).astype(dtype)
    frame = pd.DataFrame({"a": series}).set_index(pd.RangeIndex(7, 7 + N))
    frame.to_csv(tmp_path / "frame.csv", index=False)
    # The first of the equally frequent codes fills the gap.
    expected = np.eye(3)[[0, *(code - 1 for code in codes[1:])]]
    for held in (frame, {"a": gaps}, {"a": series}, read_table(tmp_path / "frame.csv")):
        np.testing.assert_array_equal(kind.rows(held), expected)


@pytest.mark.parametrize("gap", [None, float("nan"), pd.NA, pd.NaT, np.float32("nan"), "", "NaN"])
def test_every_kind_of_missing_value(tmp_path, gap):
    path = write(tmp_path / "it.csv", ["a", "b", "y"], [[k, "uv"[k % 2], k % 2] for k in range(N)])
    kind = learn(path, missing="mean").preprocessing
    np.testing.assert_allclose(kind.rows({"a": [gap], "b": [gap]}), [[0, 1, 0]], atol=1e-7)
    with pytest.raises(UserError, match=r"row 0, column 'a': the value is missing"):
        learn(path).preprocessing.rows({"a": [gap], "b": ["u"]})


def test_unknown_categories_are_counted(tmp_path):
    path = write(tmp_path / "it.csv", ["a", "y"], [["uv"[k % 2], k % 2] for k in range(N)])
    kind = learn(path, unknown="zero").preprocessing
    assert kind.guesses({"a": ["w", "u", "w", "x"]}) == [
        "cells with a category that no training row has, taken as none: a 3 ('w', 'x')"
    ]
    assert learn(path).preprocessing.guesses({"a": ["w"]}) == []


@pytest.mark.parametrize("cell", ["1e39", "-1e39", "1e300", "1e400", "inf", 1e39, float("-inf"), 10**60])
@pytest.mark.parametrize("column", ["a", "constant"])
def test_what_float32_cannot_hold_is_named(tmp_path, cell, column):
    path = write(tmp_path / "it.csv", ["a", "constant", "y"], [[k / 7, 7, k % 2] for k in range(N)])
    kind = learn(path).preprocessing
    with pytest.raises(UserError, match=rf"row 1, column '{column}': got .*, must be finite"):
        kind.rows({"a": [1.0, 1.0], "constant": [7, 7], column: [1, cell]})
    path = write(tmp_path / "bad.csv", ["a", "y"], [[cell if k == 4 else k, k % 2] for k in range(N)])
    with pytest.raises(UserError, match=r"bad\.csv, line 6, column 'a': got .*, must be finite"):
        learn(path)


def test_what_is_too_large_only_once_standardised_is_named(tmp_path):
    path = write(tmp_path / "it.csv", ["a", "y"], [[f"{k}e-20", k % 2] for k in range(N)])
    with pytest.raises(UserError, match=r"row 1, column 'a': got '1e30', which is too large"):
        learn(path).preprocessing.rows({"a": ["0", "1e30"]})


def test_tiny_numbers_are_no_constant(tmp_path):
    values = np.arange(N)[:, None]
    path = write(tmp_path / "it.csv", ["a", "y"], [[f"{k}e-200", k % 2] for k in range(N)])
    np.testing.assert_allclose(learn(path).train_x, StandardScaler().fit_transform(values), rtol=1e-5)


@pytest.mark.parametrize("header", [["", "a", "y"], ["Unnamed: 0", "a", "y"], ["", "Unnamed: 0", "y"]])
def test_an_index_that_pandas_saved_is_no_feature(tmp_path, capsys, header):
    path = write(tmp_path / "it.csv", [*header[:-1], "z", "y"], [[3 * k, k % 5, k % 4, k % 2] for k in range(N)])
    data = learn(path)
    left = [name for name in header[:-1] if name == "a"]
    assert data.preprocessing.feature_names == (*left, "z")
    assert "columns without a name are left out: Unnamed: 0" in capsys.readouterr().err
    learn(path, ignore=["Unnamed: 0"])
    assert capsys.readouterr().err == ""
    # Other files need none of it.
    other = write(tmp_path / "other.csv", ["", "", "z", "a", "z2", "z2"], [[9, 1, 3, 4, 5, 6]])
    assert data.preprocessing.rows(read_table(other)).shape == (1, data.n_features)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("1e3", "1e3"),
        ("1e3", 1000.0),
        ("0", 0),
        ("007", 7),
        ("a, [b]: #'c\"", None),
        ("two\nlines", None),
        ("ü", "u\u0308"),
    ],
)
def test_options_name_columns_of_any_characters(tmp_path, name, option):
    wanted = name if option is None else option
    path = write(tmp_path / "it.csv", [name, "a", "y"], [[k % 3, k % 5, k % 2] for k in range(N)])
    assert learn(path, ignore=[wanted]).preprocessing.feature_names == ("a",)
    assert learn(path, categorical=[wanted]).n_features == 4
    assert learn(path, label=wanted).class_names == ("0", "1", "2")


def test_composed_and_decomposed_texts_are_the_same(tmp_path):
    rows = [["e\u0301" if k % 3 else "\u00e9", "\u00fc" if k % 2 else "u\u0308" if k % 4 else "o"] for k in range(N)]
    path = write(tmp_path / "it.csv", ["cafe\u0301", "y"], rows)
    data = learn(path)
    assert data.preprocessing.feature_names == ("caf\u00e9=\u00e9",)
    assert data.class_names == ("o", "\u00fc")
    assert data.preprocessing.rows({"caf\u00e9": ["e\u0301"], "x": [1]}).tolist() == [[1]]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"a": [1, 2], "b": ["u"]}, "column 'b' has 1 rows, 'a' 2, must have as many"),
        ({"a": 1, "b": "u"}, "column 'a': must be a list or an array"),
        ({"a": [1]}, "has no column 'b'"),
        (pd.DataFrame([[1, 2, "u"]], columns=["a", "a", "b"]), "has 2 columns 'a'"),
    ],
)
def test_columns_of_python_that_do_not_fit(tmp_path, frame, message):
    path = write(tmp_path / "it.csv", ["a", "b", "y"], [[k, "uv"[k % 2], k % 2] for k in range(N)])
    with pytest.raises(UserError, match=message):
        learn(path).preprocessing.rows(frame)


def test_a_frame_gives_the_features_of_its_file(tmp_path):
    days = pd.to_datetime([f"2020-01-0{k % 3 + 1}" for k in range(N)])
    frame = pd.DataFrame(
        {
            "n": np.arange(N) / 3,
            "t": pd.array([k % 3 == 0 for k in range(N)], dtype="boolean"),
            "c": pd.Categorical(["u", "v", "w"] * (N // 3)),
            "d": days,
            "y": [k % 2 for k in range(N)],
        }
    )
    frame.to_csv(tmp_path / "it.csv")
    data = learn(tmp_path / "it.csv")
    assert data.preprocessing.feature_names[:2] == ("n", "t")
    for held in (frame, frame.to_dict("list"), pd.read_csv(tmp_path / "it.csv")):
        if isinstance(held, dict):
            held["d"] = [day.date() for day in held["d"]]
        np.testing.assert_array_equal(data.preprocessing.rows(held), data.train_x)
