import pytest
import torch
from torch import nn

from mlp_lightning.optim import SGD

EXACT = 1e-14
ROUNDED = 1e-13

OPTIONS = [
    pytest.param({"lr": 0.1}, EXACT, id="plain"),
    pytest.param({"lr": 0.0, "momentum": 0.9}, EXACT, id="lr-0"),
    pytest.param({"lr": 0.1, "weight_decay": 0.3}, ROUNDED, id="decay"),
    pytest.param({"lr": 0.1, "momentum": 0.9}, EXACT, id="momentum"),
    pytest.param({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3}, ROUNDED, id="momentum-decay"),
    pytest.param({"lr": 0.1, "momentum": 0.9, "dampening": 0.4}, EXACT, id="dampening"),
    pytest.param({"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.3}, ROUNDED, id="dampening-decay"),
    pytest.param({"lr": 0.1, "dampening": 0.4}, EXACT, id="dampening-without-momentum"),
    pytest.param({"lr": 0.1, "momentum": 0.9, "nesterov": True}, ROUNDED, id="nesterov"),
    pytest.param({"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.3}, ROUNDED, id="nesterov-decay"),
]


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize(("options", "tolerance"), OPTIONS)
def test_follows_torch(assert_same_path, options, tolerance, steps):
    assert_same_path(lambda p: SGD(p, **options), lambda p: torch.optim.SGD(p, **options), steps, tolerance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"lr": -0.1}, "lr must be", id="negative-lr"),
        pytest.param({"lr": float("nan")}, "lr must be", id="nan-lr"),
        pytest.param({"lr": float("inf")}, "lr must be", id="inf-lr"),
        pytest.param({"lr": True}, "lr must be", id="bool-lr"),
        pytest.param({"lr": "0.1"}, "lr must be", id="text-lr"),
        pytest.param({"lr": None}, "lr must be", id="none-lr"),
        pytest.param({"momentum": 1.0}, "momentum must be", id="momentum-1"),
        pytest.param({"momentum": -0.1}, "momentum must be", id="negative-momentum"),
        pytest.param({"momentum": 0.9, "dampening": 1.0}, "dampening must be", id="dampening-1"),
        pytest.param({"momentum": 0.9, "dampening": float("nan")}, "dampening must be", id="nan-dampening"),
        pytest.param({"weight_decay": -1e-4}, "weight_decay must be", id="negative-decay"),
        pytest.param({"momentum": 0.9, "nesterov": 1}, "nesterov must be", id="number-nesterov"),
        pytest.param({"nesterov": True}, "nesterov needs", id="nesterov-without-momentum"),
        pytest.param({"momentum": 0.9, "dampening": 0.1, "nesterov": True}, "nesterov needs", id="nesterov-dampened"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SGD([nn.Parameter(torch.zeros(2))], **{"lr": 0.1, **options})
