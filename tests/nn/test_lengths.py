"""Lengths of vectors whose squares the dtype cannot hold, against exact fractions."""

import math
from fractions import Fraction

import pytest
import torch

from mlp_lightning.engines.adversary import _scale_rows_
from mlp_lightning.nn.lengths import norm_and_scale
from mlp_lightning.nn.norm import batch_norm_forward_, layer_norm_forward_
from mlp_lightning.optim import Muon, clip_norm_, max_norm_

# The dtype, and numbers whose squares overflow or vanish in it.
HUGE = [(torch.float32, 1e20), (torch.float32, 2e38), (torch.float64, 1e200), (torch.bfloat16, 1e30)]
TINY = [(torch.float32, 1e-25), (torch.float32, 3e-37), (torch.float64, 1e-200), (torch.bfloat16, 1e-25)]
RTOL = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 1e-2}


def exact_norm(numbers: torch.Tensor) -> Fraction:
    """The root of the sum of squares, to 60 digits."""
    square = sum(Fraction(number) ** 2 for number in numbers.double().tolist())
    digits = 10**400
    return Fraction(math.isqrt(int(square * digits**2)), digits)


def drawn(dtype: torch.dtype, size: float, *shape: int) -> torch.Tensor:
    unit = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (unit * size).to(dtype)


@pytest.mark.parametrize(("dtype", "size"), [*HUGE, *TINY, (torch.float32, 1.0)])
def test_norm_times_scale_is_the_norm(dtype, size):
    x = drawn(dtype, size, 50)
    norm, scale = norm_and_scale(x, tiny=True)
    assert (scale is None) == (size == 1.0)
    found = Fraction(float(norm)) * Fraction(1.0 if scale is None else float(scale))
    assert float(found / exact_norm(x)) == pytest.approx(1, rel=RTOL[dtype])


@pytest.mark.parametrize(("dtype", "size"), HUGE)
def test_a_huge_gradient_is_shortened_to_the_bound(dtype, size):
    grad = drawn(dtype, size, 3, 5)
    expected = grad.double() / float(exact_norm(grad.flatten()) / 2)
    clip_norm_(grad, 2.0)
    torch.testing.assert_close(grad.double(), expected, rtol=RTOL[dtype], atol=0)


def test_two_entries_that_overflow():
    grad = torch.tensor([1e20, 1e20])
    norm = clip_norm_(grad, 1.0)
    torch.testing.assert_close(grad, torch.tensor([0.5**0.5, 0.5**0.5]))
    torch.testing.assert_close(norm, torch.tensor(2**0.5 * 1e20))


@pytest.mark.parametrize(("dtype", "size"), [*HUGE, *TINY])
def test_rows_keep_the_bound_and_short_ones_every_bit(dtype, size):
    limit = size / 2
    weight = drawn(dtype, size, 4, 6)
    weight[1], weight[2], weight[3] = 0, weight[2] / 64, 1e-3
    before = weight.clone()
    max_norm_(weight, limit)
    for row, old in zip(weight, before, strict=True):
        if exact_norm(old) <= Fraction(limit):
            assert torch.equal(row, old)
        else:
            assert float(exact_norm(row) / Fraction(limit)) == pytest.approx(1, rel=2 * RTOL[dtype])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("size", [1.0, 1e30])
def test_what_is_not_finite_stays_visible_beside_huge_numbers(bad, size):
    grad, weight = torch.tensor([size, bad]), torch.tensor([[size, bad], [size, 0.0]])
    assert not clip_norm_(grad, 1.0).isfinite()
    max_norm_(weight, 1.0)
    assert grad.isnan().any()
    assert not weight[0].isfinite().all()
    torch.testing.assert_close(weight[1], torch.tensor([1.0, 0.0]))


def test_muons_step_does_not_depend_on_the_gradients_size():
    grad = torch.randn(12, generator=torch.Generator().manual_seed(0))
    steps = []
    for size in (1.0, 2.0**80, 2.0**120):
        p = torch.nn.Parameter(torch.zeros(12))
        p.grad = grad * size
        Muon([p], 0.1, [(3, 4)], weight_decay=0.0).step()
        steps.append(p.detach())
    assert steps[0].abs().max() > 1e-3
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(steps[2], steps[0], rtol=1e-5, atol=1e-7)


def test_an_adversarys_rows_get_their_length_whatever_they_were():
    d = drawn(torch.float32, 1.0, 5, 7) * torch.tensor([[1.0], [1e25], [3e38], [1e-30], [0.0]])
    direction = torch.nn.functional.normalize(d.double(), dim=1, eps=1e-300)
    torch.testing.assert_close(_scale_rows_(d, 2.0).double(), 2 * direction, rtol=1e-6, atol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_variance_beyond_the_dtype_is_not_taken_for_a_layer_that_answers_0(axis):
    z = drawn(torch.float32, 1e25, 6, 6)
    cache = batch_norm_forward_(z, 6, lambda total: total) if axis == 0 else layer_norm_forward_(z)
    assert cache.z_hat.isnan().all()


def test_another_device_is_not_waited_for():
    norm, scale = norm_and_scale(torch.empty(3, 4, device="meta"), 1)
    assert norm.shape == (3, 1)
    assert scale is None
