import pytest
import torch
from torch import nn

from mlp_lightning.optim import RMSprop

TOLERANCE = 1e-12

OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"alpha": 0.0}, id="alpha-0"),
    pytest.param({"alpha": 0.5, "eps": 0.1}, id="short-memory-large-eps"),
    pytest.param({"weight_decay": 0.3}, id="decay"),
    pytest.param({"momentum": 0.9}, id="momentum"),
    pytest.param({"momentum": 0.9, "weight_decay": 0.3}, id="momentum-decay"),
    pytest.param({"centered": True}, id="centered"),
    pytest.param({"centered": True, "momentum": 0.9, "weight_decay": 0.3}, id="all"),
]


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("options", OPTIONS)
def test_follows_torch(assert_same_path, options, steps):
    assert_same_path(
        lambda p: RMSprop(p, 0.01, **options), lambda p: torch.optim.RMSprop(p, 0.01, **options), steps, TOLERANCE
    )


def test_centered_stays_finite_under_a_steady_gradient():
    # v − a² tends to 0, and rounding carries some entries below: without a floor their root is NaN.
    p = nn.Parameter(torch.zeros(1000), requires_grad=False)
    p.grad = torch.linspace(0.1, 3, 1000)
    optimizer = RMSprop([p], 0.01, alpha=0.5, centered=True)
    for _ in range(200):
        optimizer.step()
    assert p.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"lr": -0.1}, "lr must be", id="negative-lr"),
        pytest.param({"lr": float("inf")}, "lr must be", id="inf-lr"),
        pytest.param({"alpha": 1.0}, "alpha must be", id="alpha-1"),
        pytest.param({"alpha": -0.1}, "alpha must be", id="negative-alpha"),
        pytest.param({"eps": -1e-8}, "eps must be", id="negative-eps"),
        pytest.param({"momentum": 1.0}, "momentum must be", id="momentum-1"),
        pytest.param({"centered": "yes"}, "centered must be", id="text-centered"),
        pytest.param({"weight_decay": float("nan")}, "weight_decay must be", id="nan-decay"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        RMSprop([nn.Parameter(torch.zeros(2))], **{"lr": 0.1, **options})
