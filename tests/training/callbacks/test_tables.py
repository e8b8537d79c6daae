import itertools

import torch
from torch import nn

from mlp_lightning.nn import MLP
from mlp_lightning.training.callbacks.tables import format_table, network_table, results_table


def test_columns_are_as_wide_as_their_widest_cell():
    assert format_table([("a", "bb"), ("ccc", "d"), ("", "e")]).split("\n") == [
        "a    bb",
        "-------",
        "ccc  d",
        "     e",
    ]


def test_the_network_is_told_as_torch_counts_it():
    sizes = (784, 500, 250, 10)
    lines = network_table(MLP(sizes), "tanh").split("\n")
    linears = [nn.Linear(n_in, n_out) for n_in, n_out in itertools.pairwise(sizes)]
    totals = [sum(tensor.numel() for tensor in linear.parameters()) for linear in linears]
    assert [line.split()[-1] for line in lines[2:]] == [f"{total:,}" for total in (*totals, sum(totals))]
    assert [line.split()[1:4] for line in lines[2:-1]] == [
        [str(linear.out_features), "×", str(linear.in_features)] for linear in linears
    ]
    assert [line.split()[5] for line in lines[2:-1]] == ["tanh", "tanh", "none"]


def test_a_network_without_hidden_layers_has_one_row():
    assert network_table(MLP((3, 2)), "relu").split("\n")[2].split() == ["0", "2", "×", "3", "2", "none", "8"]


def test_results_hold_what_is_there():
    table = results_table(
        {
            "test/loss": 0.12345,
            "test/accuracy": 0.98765,
            "test/class_accuracy": {"one": 0.5, "two": torch.tensor(1.0).item()},
            "seconds": 61.26,
            "train_seconds": 50.04,
            "images_per_second": 12345.6,
        }
    )
    rows = dict(line.split("  ", 1) for line in (row.strip() for row in table.split("\n")[2:]))
    assert {name.strip(): value.strip() for name, value in rows.items()} == {
        "test loss": "0.1235",
        "test accuracy": "98.77%",
        "class one": "50.00%",
        "class two": "100.00%",
        "seconds": "61.3, of which 50.0 in training steps",
        "images per second": "12,346",
    }


def test_results_without_any_are_the_head_alone():
    assert results_table({}).split("\n")[0].split() == ["result", "value"]
