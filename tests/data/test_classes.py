import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from mlp_lightning.data.classes import (
    balanced_weights,
    check_each_class_trains,
    check_training_classes,
    encoded,
    label_text,
    names_of,
)
from mlp_lightning.errors import UserError


@pytest.mark.parametrize(
    ("cell", "name"),
    [("1.0", "1"), (" 3", "3"), (7, "7"), (2.0, "2"), ("2.5", "2.5"), ("cat", "cat"), (True, "True"), ("-1", "-1")],
)
def test_label_text(cell, name):
    assert label_text(cell) == name


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
