import pytest
import torch
from torch.nn import functional as F

from mlp_lightning.optim import soft_threshold_


def thresholded(weights, threshold):
    weights = weights.clone()
    soft_threshold_(weights, threshold, torch.full_like(weights, float("nan")))
    return weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 100.0])
def test_is_torchs_softshrink(threshold, dtype):
    weights = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(thresholded(weights, threshold), F.softshrink(weights, threshold))


def test_minimises_what_it_is_the_proximal_step_of():
    """No point of a fine grid has a lower ½ (u − w)² + t |u|."""
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    for w in (-2.0, -0.5, -0.1, 0.0, 0.4, 0.7, 2.5):
        u = thresholded(torch.tensor([w], dtype=torch.float64), 0.5)
        best = (0.5 * (grid - w) ** 2 + 0.5 * grid.abs()).min()
        assert 0.5 * (u - w) ** 2 + 0.5 * u.abs() <= best + 1e-15


def test_small_weights_become_zero_exactly_and_stay():
    weights = torch.tensor([0.1, -0.1, 0.05, 0.0])
    for _ in range(3):
        weights = thresholded(weights, 0.1)
        assert torch.equal(weights, torch.zeros(4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_threshold_beyond_the_dtype_leaves_nothing(dtype):
    assert not thresholded(torch.tensor([-3.0, 2.0], dtype=dtype), 1e308).any()


def test_numbers_that_are_not_finite_stay_visible():
    weights = thresholded(torch.tensor([float("nan"), float("inf"), -float("inf")]), 0.1)
    assert weights.isnan()[0]
    assert weights[1:].isinf().all()


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf"), True])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match=r"^threshold must be a finite number >= 0"):
        thresholded(torch.zeros(2), threshold)
