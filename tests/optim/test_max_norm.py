import pytest
import torch

from mlp_lightning.optim import max_norm_

# torch.renorm divides by ‖w‖ + 1e-7.
RENORM = 1e-6


def bounded(weight, limit):
    weight = weight.clone()
    max_norm_(weight, limit)
    return weight


def rows(dtype=torch.float64):
    """Of lengths from 0 to about 12."""
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (weight * torch.arange(7.0, dtype=torch.float64)[:, None]).to(dtype)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 4.0, 1e3])
def test_is_torchs_renorm(limit):
    torch.testing.assert_close(bounded(rows(), limit), torch.renorm(rows(), 2, 0, limit), rtol=RENORM, atol=RENORM)


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float64, 1e-15), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_rows_are_no_longer_than_the_limit_and_short_ones_are_left_alone(dtype, eps):
    before, after = rows(dtype), bounded(rows(dtype), 3.0)
    is_short = before.norm(dim=1) <= 3
    assert 0 < is_short.sum() < 7
    assert torch.equal(after[is_short], before[is_short])
    lengths = after[~is_short].double().norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 3.0), rtol=2 * eps, atol=0)


def test_closed_form():
    assert torch.equal(bounded(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 2.5), torch.tensor([[1.5, 2.0], [0.3, 0.4]]))


def test_is_the_nearest_point_that_keeps_the_bound():
    weight, after = rows()[3:4], bounded(rows()[3:4], 1.0)
    others = torch.randn(1000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    others /= others.norm(dim=1, keepdim=True).clamp(min=1)
    assert ((others - weight).norm(dim=1) >= (after - weight).norm()).all()


def test_numbers_that_are_not_finite_stay_visible():
    assert bounded(torch.tensor([[float("nan"), 1.0]]), 1.0).isnan().any()
    assert bounded(torch.tensor([[float("inf"), 1.0]]), 1.0).isnan().any()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf"), True])
def test_bad_limit(limit):
    with pytest.raises(ValueError, match=r"^limit must be a finite number > 0"):
        bounded(torch.zeros(1, 2), limit)
