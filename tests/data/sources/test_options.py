import pytest

from mlp_lightning.data.sources.options import SourceOptions, source_options
from mlp_lightning.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_size": 0}, "data.test_size: got 0"),
        ({"test_size": 1.5}, "data.test_size: got 1.5"),
        ({"test_size": float("nan")}, "data.test_size: got nan"),
        ({"image_size": (3,)}, "data.image_size: got [3]"),
        ({"image_size": (3, 0)}, "data.image_size: got [3, 0]"),
        ({"memory_budget": 0}, "data.memory_budget: got 0"),
        ({"memory_budget": float("inf")}, "data.memory_budget: got inf"),
        ({"test_seed": -1}, "data.test_seed: got -1"),
    ],
    ids=str,
)
def test_ranges(options, message):
    with pytest.raises(UserError) as caught:
        SourceOptions(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("mnist", {"label": "y"}, "data.label: got y, but data.dataset mnist does not take it; csv does"),
        ("arrays", {"root": "x", "ignore": ["a"]}, "data.ignore: got ['a'], but data.dataset arrays"),
        ("cifar10", {"test_size": 3}, "image_folder and csv and arrays do"),
        ("csv", {}, "data.root: got null"),
    ],
)
def test_options_of_other_sets(dataset, options, message):
    with pytest.raises(UserError) as caught:
        source_options(options).check_dataset(dataset)
    assert message in str(caught.value)


def test_what_a_set_takes():
    source_options({"root": "x", "label": "y", "ignore": ["a"], "test_path": "z"}).check_dataset("csv")
    assert SourceOptions(memory_budget=2).budget == 2e6
    assert SourceOptions().budget > 1e8
