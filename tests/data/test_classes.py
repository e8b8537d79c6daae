import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from mlp_lightning.data.classes import (
    balanced_weights,
    check_each_class_trains,
    check_labels,
    check_training_classes,
    encoded,
    label_text,
    label_texts,
    names_of,
)
from mlp_lightning.errors import UserError


@pytest.mark.parametrize(
    ("cell", "name"),
    [("1.0", "1"), (" 3", "3"), (7, "7"), (2.0, "2"), ("2.5", "2.5"), ("cat", "cat"), (True, "True"), ("-1", "-1")],
)
def test_label_text(cell, name):
    assert label_text(cell) == name


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["1.0", "2.0", "10.0"], ["1", "2", "10"]),
        ([1.0, 2, "3"], ["1", "2", "3"]),
        (["01", "1", "1.0"], ["01", "1", "1.0"]),
        (["1E3", "1000"], ["1E3", "1000"]),
        (["007", "7.0"], ["007", "7.0"]),
        (["1.0", "1.5"], ["1.0", "1.5"]),
        (["+1", "-1"], ["+1", "-1"]),
        ([1e16, -0.0], ["10000000000000000", "0"]),
        (["e\u0301", "\u00e9 "], ["\u00e9", "\u00e9"]),
    ],
)
def test_labels_keep_their_text_unless_all_are_whole_numbers(cells, names):
    assert label_texts(cells) == names


def test_names_that_differ_only_in_their_composition_are_one_class():
    names = names_of(["e\u0301", "\u00e9", "a"])
    assert names == ("a", "\u00e9")
    assert encoded(["e\u0301", "a", "\u00e9"], names, str).tolist() == [1, 0, 1]


def test_a_whole_number_is_found_however_pandas_writes_it():
    assert encoded(["2.0", "1"], ("1", "2"), str).tolist() == [1, 0]
    assert encoded(["2", "2.50"], ("2.0", "2.50"), str).tolist() == [0, 1]
    assert encoded(["2", "2.0"], ("2", "2.0"), str).tolist() == [0, 1]
    for other in ("02", "2e0", "+2", "2.5"):
        with pytest.raises(UserError, match="no class of the training"):
            encoded([other], ("1", "2"), str)


def test_names_of_equal_numbers_have_one_order():
    assert names_of(["1e3", "1000", "01", "1"]) == names_of(["1", "1000", "1e3", "01"]) == ("01", "1", "1000", "1e3")


PRICES = [f"{value:.2f}" for value in np.random.default_rng(0).normal(200, 30, 200)]


@pytest.mark.parametrize(
    "labels",
    [
        PRICES,
        [price.replace(".", ",") for price in PRICES],
        [f"{float(price):.0f}" for price in PRICES],
        [f"${price}" for price in PRICES],
        [f"{k % 25 / 8}" for k in range(1000)],
        ["0.5", "1.5", "2.5"],
        [str(1000 * k) for k in range(30)],
    ],
    ids=["prices", "commas", "whole", "dollars", "fractions", "few rows", "thousands"],
)
def test_a_quantity_is_no_class(labels):
    with pytest.raises(UserError, match=r"^it has \d+ different numbers.* quantity to estimate \(regression\)"):
        check_labels(labels, "it")


@pytest.mark.parametrize(
    "labels",
    [
        [str(k % 10) for k in range(30)],
        [str(k) for k in range(40)],
        [str(k % 47 + 1) for k in range(60)],
        [f"{k % 9 / 2}" for k in range(60)],
        [f"{1000 * (k % 5)}" for k in range(20)],
        [str(7 * (k % 100)) for k in range(1000)],
        list("abcabc"),
        ["a", "b"],
        ["1.5", "2.5"],
    ],
    ids=["digits", "one of each", "codes from 1", "marks", "few", "often", "letters", "two", "two numbers"],
)
def test_few_or_frequent_numbers_are_classes(labels):
    check_labels(labels, "it")


def test_texts_that_name_rows_are_no_classes():
    with pytest.raises(UserError, match=r"^it has 30 different texts in 30 rows.* they name rows"):
        check_labels([f"person {k}" for k in range(30)], "it")


def test_numbers_are_ordered_by_size_and_words_by_the_alphabet():
    assert names_of(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert names_of(["b", "10", "9"]) == ("10", "9", "b")


def test_an_unknown_label_is_named():
    assert encoded(["b", "a"], ("a", "b"), str).tolist() == [1, 0]
    with pytest.raises(UserError, match=r"^row 1: got label 'c', which is no class of the training: a, b$"):
        encoded(["a", "c"], ("a", "b"), lambda row: f"row {row}")


def test_balanced_weights_are_those_of_scikit_learn():
    y = np.random.default_rng(0).choice(4, 200, p=[0.1, 0.2, 0.3, 0.4])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=y)
    assert balanced_weights(torch.from_numpy(y).bincount(), "abcd") == pytest.approx(list(expected))


@pytest.mark.parametrize(
    ("counts", "message"),
    [([5], "one class only, c0"), ([0, 1, 0], "1 samples for 3 classes")],
)
def test_a_training_part_that_teaches_nothing_is_refused(counts, message):
    with pytest.raises(UserError, match=message):
        check_training_classes(torch.tensor(counts), [f"c{k}" for k in range(len(counts))], "it")


def test_a_class_that_never_trains_is_refused():
    check_each_class_trains(torch.tensor([1, 4]), "ab", "it")
    with pytest.raises(
        UserError, match=r"^it has samples of a, c that test or validate, but none in its training part"
    ):
        check_each_class_trains(torch.tensor([0, 4, 0]), "abc", "it")


def test_a_class_without_samples_has_no_balanced_weight():
    with pytest.raises(UserError, match=r"^model\.class_weights: got balanced, but class b has no sample"):
        balanced_weights(torch.tensor([3, 0]), "ab")
