import pytest
import torch
from torch import nn

from mlp_lightning.optim import NAdam

TOLERANCE = 1e-11

OPTIONS = [
    pytest.param({}, id="defaults"),
    pytest.param({"weight_decay": 0.3}, id="decay"),
    pytest.param({"weight_decay": 0.3, "decoupled_weight_decay": True}, id="decoupled-decay"),
    pytest.param({"momentum_decay": 0.0}, id="momentum_decay-0"),
    pytest.param({"momentum_decay": 0.5}, id="fast-momentum_decay"),
    pytest.param({"beta1": 0.0}, id="beta1-0"),
    pytest.param({"beta1": 0.5, "beta2": 0.7}, id="short-memory"),
    pytest.param({"beta2": 0.0}, id="beta2-0"),
    pytest.param({"eps": 0.1}, id="large-eps"),
    pytest.param({"eps": 0.0}, id="eps-0"),
]


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("options", OPTIONS)
def test_follows_torch(assert_same_path, float64_by_default, options, steps):
    theirs = dict(options)
    betas = (theirs.pop("beta1", 0.9), theirs.pop("beta2", 0.999))
    assert_same_path(
        lambda p: NAdam(p, 0.05, **options),
        lambda p: torch.optim.NAdam(p, 0.05, betas=betas, **theirs),
        steps,
        TOLERANCE,
    )


def test_takes_betas_as_torch(assert_same_path, float64_by_default):
    rules = (NAdam, torch.optim.NAdam)
    assert_same_path(*(lambda p, r=r: r(p, 0.05, betas=(0.5, 0.7)) for r in rules), 10, TOLERANCE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"lr": -0.1}, "lr must be", id="negative-lr"),
        pytest.param({"beta1": 1.0}, "beta1 must be", id="beta1-1"),
        pytest.param({"beta2": -0.1}, "beta2 must be", id="negative-beta2"),
        pytest.param({"eps": float("nan")}, "eps must be", id="nan-eps"),
        pytest.param({"weight_decay": -0.1}, "weight_decay must be", id="negative-decay"),
        pytest.param({"momentum_decay": -0.1}, "momentum_decay must be", id="negative-momentum_decay"),
        pytest.param({"momentum_decay": float("inf")}, "momentum_decay must be", id="inf-momentum_decay"),
        pytest.param({"decoupled_weight_decay": 1}, "decoupled_weight_decay must be", id="number-decoupled"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        NAdam([nn.Parameter(torch.zeros(2))], **{"lr": 0.1, **options})
