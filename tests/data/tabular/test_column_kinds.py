"""What columns are taken for, in many ways of writing; the right numbers are those that wrote the cells."""

import pandas as pd
import pytest

from mlp_lightning.data.tabular.cells import Place
from mlp_lightning.data.tabular.column_kinds import Numbers, Texts, Truths, column_kinds
from mlp_lightning.data.tabular.columns import numbers, truths
from mlp_lightning.data.tabular.written import PLAIN, written_as
from mlp_lightning.errors import UserError

VALUES = [1234.5, -36.5, 0.25, 7, 1234567.0, -0.5, 12.75]


def german(value):
    return f"{value:,}".translate(str.maketrans(",.", ".,"))


WAYS = {
    "plain": str,
    "minus sign": lambda value: str(value).replace("-", "\N{MINUS SIGN}"),
    "decimal comma": lambda value: str(value).replace(".", ","),
    "thousands": lambda value: f"{value:,}",
    "german": german,
    "french": lambda value: f"{value:,}".replace(",", "\N{NO-BREAK SPACE}").replace(".", ","),
    "spaces": lambda value: f"{value:,}".replace(",", " "),
    "swiss": lambda value: f"{value:,}".replace(",", "'"),
    "percent": lambda value: f"{value}%",
    "percent after a space": lambda value: f"{value} %",
    "dollars": lambda value: f"-${-value:,}" if value < 0 else f"${value:,}",
    "dollars before the minus": lambda value: f"${value:,}",
    "euros": lambda value: f"{german(value)} €",
    "code": lambda value: f"CHF {value}",
    "kilograms": lambda value: f"{value} kg",
    "degrees": lambda value: f"{value}°C",
    "square metres": lambda value: f"{german(value)} m²",
}


def kind_of(values, separator=",", **others):
    return column_kinds({"it": values, **others}, "it.csv", separator)["it"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_numbers_are_read_as_they_are_written(way, separator):
    cells = [WAYS[way](value) for value in VALUES]
    kind = kind_of([*cells, "", "NA"], separator)
    assert isinstance(kind, Numbers)
    assert numbers(cells, "it", Place(), kind.written).tolist() == VALUES
    assert written_as(kind.written.example) == kind.written
    # Numbers of Python have been read by somebody.
    assert numbers(VALUES, "it", Place(), kind.written).tolist() == VALUES


def test_decimal_commas_are_those_of_pandas(tmp_path):
    (tmp_path / "it.csv").write_text("a;b\n1.234,5;-0,5\n999;12,25\n1.000.000;3\n")
    frame = pd.read_csv(tmp_path / "it.csv", sep=";", decimal=",", thousands=".")
    texts = pd.read_csv(tmp_path / "it.csv", sep=";", dtype=str)
    for name in frame:
        cells = texts[name].tolist()
        assert numbers(cells, name, Place(), kind_of(cells, ";").written).tolist() == frame[name].tolist()


@pytest.mark.parametrize("trained", ["decimal comma", "german", "percent", "kilograms", "dollars"])
@pytest.mark.parametrize("other", ["36.5", "1,234.5", "3,5,1", "12 lb", "€ 5,0", "x"])
def test_other_writing_is_refused_and_never_another_number(trained, other):
    kind = kind_of([WAYS[trained](value) for value in VALUES])
    with pytest.raises(UserError, match=r"column 'it': got .* must be a number written like '.*1.?234[.,]5"):
        numbers([other], "it", Place(), kind.written)


@pytest.mark.parametrize(
    ("cells", "separator", "others", "expected"),
    [
        (["1,234", "2,500"], ",", {}, [1234, 2500]),
        (["1,234", "2,500"], ";", {"other": ["0,5"]}, [1.234, 2.5]),
        (["1,234", "2,500"], ";", {"other": ["0.5"]}, [1234, 2500]),
        (["1.234", "2.500"], ";", {"other": ["0,5"]}, [1234, 2500]),
        (["1.234", "2.500"], ";", {"other": ["0.5"]}, [1.234, 2.5]),
        (["1.234", "2.500"], ";", {}, [1.234, 2.5]),
        (["1.234", "999"], ",", {}, [1.234, 999]),
        (["1.234", "999"], ";", {"other": ["36,5"]}, [1234, 999]),
    ],
)
def test_what_may_be_read_in_two_ways_is_told_by_the_other_columns(cells, separator, others, expected):
    kind = kind_of(cells, separator, **others)
    assert numbers(cells, "it", Place(), kind.written).tolist() == expected


@pytest.mark.parametrize(
    ("cells", "separator", "others"),
    [
        (["1,234", "2,500"], ";", {}),
        (["1,234", "2,500"], "\t", {}),
        (["1.234", "999"], ";", {}),
        (["1,234", "2,500"], ",", {"one": ["0,5"], "two": ["0.5"]}),
    ],
)
def test_what_nothing_tells_is_refused(cells, separator, others):
    with pytest.raises(UserError, match=r"^it\.csv, column 'it': '1.234' may have a decimal sign or thousands"):
        kind_of(cells, separator, **others)


@pytest.mark.parametrize("pair", [("true", "false"), ("T", "F"), ("Yes", "NO"), ("y", "n"), ("TRUE", "False")])
def test_true_and_false_are_the_words_of_a_pair(pair):
    kind = kind_of([pair[0], pair[1], "", pair[0].upper()])
    assert isinstance(kind, Truths)
    values = truths([*pair, "1", 0, True, "no"], "it", Place(), "/".join(kind.words))
    assert values.tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("other", ["N", "Y", "2", "maybe"])
def test_words_of_another_pair_are_no_truth(other):
    with pytest.raises(UserError, match=r"got .*, must be true or false, written t/f"):
        truths([other], "it", Place(), "t/f")


@pytest.mark.parametrize(
    "cells",
    [["F", "N"], ["T", "Y"], ["yes", "no", "true"], ["t", "false"], ["1", "0", "yes", "no", "n"], ["T"], ["no", "no"]],
)
def test_other_words_are_categories(cells):
    kind = kind_of(cells)
    assert isinstance(kind, Texts)
    assert bool(kind.odd) == (len(set(cells)) > 1)


@pytest.mark.parametrize(
    ("cells", "odd"),
    [
        (["1,23,456", "2,23,456"], True),
        (["18-25", "26-35"], True),
        (["2020-01-01", "2021-01-01"], True),
        (["1 year", "2 years", "3 years"], True),
        (["3 kg", "500 g"], True),
        (["1A", "2B"], True),
        ([">5", "<5"], True),
        (["Q1", "Q2"], False),
        (["red", "blue"], False),
        (["low", "high", "5"], False),
    ],
)
def test_what_only_begins_as_a_number_is_a_category_that_is_told(cells, odd):
    kind = kind_of(cells)
    assert isinstance(kind, Texts)
    assert bool(kind.odd) == odd


def test_a_cell_that_is_no_number_does_not_change_the_others():
    assert kind_of(["1.5", "2", "1,5"]) == Numbers(PLAIN)
    with pytest.raises(UserError, match="no number is written like"):
        written_as("12")
