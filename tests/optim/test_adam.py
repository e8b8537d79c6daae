import pytest
import torch
from torch import nn

from mlp_lightning.optim import Adam, AdamW

TOLERANCE = 1e-12

RULES = [
    pytest.param(Adam, torch.optim.Adam, id="adam"),
    pytest.param(AdamW, torch.optim.AdamW, id="adamw"),
]
OPTIONS = [
    pytest.param({"weight_decay": 0.0}, id="plain"),
    pytest.param({}, id="defaults"),
    pytest.param({"weight_decay": 0.3}, id="decay"),
    pytest.param({"amsgrad": True}, id="amsgrad"),
    pytest.param({"amsgrad": True, "weight_decay": 0.3, "beta2": 0.5}, id="amsgrad-decay"),
    pytest.param({"beta1": 0.0}, id="beta1-0"),
    pytest.param({"beta2": 0.0}, id="beta2-0"),
    pytest.param({"beta1": 0.5, "beta2": 0.7}, id="short-memory"),
    pytest.param({"eps": 0.1}, id="large-eps"),
    pytest.param({"eps": 0.0}, id="eps-0"),
]


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("rule", "reference"), RULES)
def test_follows_torch(assert_same_path, rule, reference, options, steps):
    theirs = dict(options)
    betas = (theirs.pop("beta1", 0.9), theirs.pop("beta2", 0.999))
    assert_same_path(
        lambda p: rule(p, 0.05, **options), lambda p: reference(p, 0.05, betas=betas, **theirs), steps, TOLERANCE
    )


@pytest.mark.parametrize(("rule", "reference"), RULES)
def test_takes_betas_as_torch(assert_same_path, rule, reference):
    assert_same_path(*(lambda p, r=r: r(p, 0.05, betas=(0.5, 0.7)) for r in (rule, reference)), 10, TOLERANCE)
    with pytest.raises(ValueError, match="must be"):
        rule([torch.zeros(1)], 0.05, betas=(0.5, 1.0))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Under coupled decay the first step is −η sign(g + λ θ) whatever λ > 0; decoupled, a zero gradient shrinks θ.
        pytest.param(Adam, 2.0 - 0.1, id="adam-coupled"),
        pytest.param(AdamW, 2.0 * (1 - 0.1 * 0.5), id="adamw-decoupled"),
    ],
)
def test_decay_of_a_zero_gradient(rule, expected):
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64), requires_grad=False)
    p.grad = torch.zeros_like(p)
    rule([p], 0.1, weight_decay=0.5).step()
    assert p.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("rule", [Adam, AdamW])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"lr": -0.1}, "lr must be", id="negative-lr"),
        pytest.param({"lr": float("nan")}, "lr must be", id="nan-lr"),
        pytest.param({"beta1": 1.0}, "beta1 must be", id="beta1-1"),
        pytest.param({"beta1": -0.1}, "beta1 must be", id="negative-beta1"),
        pytest.param({"beta2": 1.0}, "beta2 must be", id="beta2-1"),
        pytest.param({"beta2": False}, "beta2 must be", id="bool-beta2"),
        pytest.param({"eps": -1e-8}, "eps must be", id="negative-eps"),
        pytest.param({"eps": float("inf")}, "eps must be", id="inf-eps"),
        pytest.param({"weight_decay": -0.1}, "weight_decay must be", id="negative-decay"),
        pytest.param({"amsgrad": 1}, "amsgrad must be", id="number-amsgrad"),
    ],
)
def test_bad_arguments(rule, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        rule([nn.Parameter(torch.zeros(2))], **{"lr": 0.1, **options})
