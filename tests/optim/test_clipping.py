import math

import pytest
import torch
from torch import nn

from mlp_lightning.optim import clip_norm_, clip_value_

TOLERANCE = 1e-14

GRADIENTS = [
    pytest.param(torch.tensor([3.0, -4.0], dtype=torch.float64), id="norm-5"),
    pytest.param(torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64), id="matrix"),
    pytest.param(torch.zeros(3, dtype=torch.float64), id="zero"),
    pytest.param(torch.tensor(-2.0, dtype=torch.float64), id="scalar"),
    pytest.param(torch.empty(0, dtype=torch.float64), id="empty"),
]


def with_grad(grad):
    p = nn.Parameter(torch.zeros_like(grad))
    p.grad = grad.clone()
    return p


@pytest.mark.parametrize("max_norm", [1e-3, 1, 5.0, 1e6])
@pytest.mark.parametrize("grad", GRADIENTS)
def test_norm_follows_torch(grad, max_norm):
    p, ours = with_grad(grad), grad.clone()
    expected_norm = nn.utils.clip_grad_norm_([p], max_norm)
    norm = clip_norm_(ours, max_norm)
    assert norm.shape == ()
    torch.testing.assert_close(norm, expected_norm, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(ours, p.grad, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("max_value", [1e-3, 1, 3.5, 1e6])
@pytest.mark.parametrize("grad", GRADIENTS)
def test_value_follows_torch(grad, max_value):
    p, ours = with_grad(grad), grad.clone()
    nn.utils.clip_grad_value_([p], max_value)
    clip_value_(ours, max_value)
    assert torch.equal(ours, p.grad)


def test_norm_below_the_bound_is_left_bit_for_bit():
    grad = torch.tensor([0.1, -0.7], dtype=torch.float32)
    clip_norm_(grad, 1.0)
    assert torch.equal(grad, torch.tensor([0.1, -0.7], dtype=torch.float32))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_gradient_shows_in_the_norm(bad):
    norm = clip_norm_(torch.tensor([1.0, bad]), 1.0)
    assert not norm.isfinite()


def test_works_in_place_on_a_view():
    flat = torch.full((6,), 10.0)
    clip_value_(flat[:2], 1.0)
    clip_norm_(flat[2:4], 1.0)
    torch.testing.assert_close(flat, torch.tensor([1.0, 1.0, 0.5**0.5, 0.5**0.5, 10.0, 10.0]))


def test_never_waits_for_the_device():
    """A meta tensor has no values: whatever reads one as a number raises."""
    grad = torch.empty(4, device="meta")
    assert clip_norm_(grad, 1.0).is_meta
    clip_value_(grad, 1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, True, "1", None])
@pytest.mark.parametrize(("clip", "name"), [(clip_norm_, "max_norm"), (clip_value_, "max_value")])
def test_bad_arguments(clip, name, bound):
    grad = torch.ones(2)
    with pytest.raises(ValueError, match=f"^{name} must be a finite number > 0, got {bound!r}$"):
        clip(grad, bound)
    assert torch.equal(grad, torch.ones(2))
