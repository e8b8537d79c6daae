"""Batch norm and layer norm against torch.nn.functional, autograd and torch.nn.BatchNorm1d's running statistics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mlp_lightning.nn.norm import EPS, Norm, follow_, norm_backward_, norm_forward_
from mlp_lightning.nn.training_pass import TrainingPass

KINDS = ["layer", "batch", "batch in evaluation"]


def make(kind, width, generator, dtype=torch.float64):
    gamma, beta, mean = (torch.randn(width, generator=generator, dtype=torch.float64) for _ in range(3))
    var = torch.rand(width, generator=generator, dtype=torch.float64) + 0.1
    parts = [gamma, beta, torch.empty(width), torch.empty(width)] + ([] if kind == "layer" else [mean, var])
    return Norm(*(part.to(dtype) for part in parts))


def pass_of(kind, samples):
    return TrainingPass(samples) if kind == "batch" else None


def torchs(kind, z, norm, gamma, beta):
    if kind == "layer":
        return F.layer_norm(z, z.shape[1:], gamma, beta)
    statistics = (norm.running_mean, norm.running_var) if kind != "batch" else (None, None)
    return F.batch_norm(z, *statistics, gamma, beta, training=kind == "batch")


def check(assert_oracle, kind, z, dn, norm, tolerance=1e-10):
    places = [tensor.clone().requires_grad_() for tensor in (z, norm.gamma, norm.beta)]
    expected = torchs(kind, places[0], norm, *places[1:])
    n, cache = norm_forward_(norm, z.clone(), pass_of(kind, len(z)))
    assert_oracle("n", n, expected.detach(), tolerance)
    ours = norm_backward_(norm, dn.clone(), cache)
    for name, got, wanted in zip(
        ("dz", "dgamma", "dbeta"), ours, torch.autograd.grad(expected, places, dn), strict=True
    ):
        assert_oracle(name, got, wanted, tolerance)


@pytest.mark.parametrize("samples", [2, 9])
@pytest.mark.parametrize("width", [2, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_follows_autograd(assert_oracle, generator, kind, width, samples):
    norm = make(kind, width, generator)
    z, dn = (torch.randn(samples, width, generator=generator, dtype=torch.float64) for _ in range(2))
    check(assert_oracle, kind, z, dn, norm)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.sampled_from(KINDS),
    st.integers(2, 20),
    st.integers(2, 20),
    st.floats(-100, 100),
    st.floats(0.5, 100),
    st.integers(0, 2**32),
)
def test_follows_autograd_at_any_place_and_scale(assert_oracle, kind, samples, width, place, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    norm = make(kind, width, generator)
    z, dn = (torch.randn(samples, width, generator=generator, dtype=torch.float64) for _ in range(2))
    check(assert_oracle, kind, z * scale + place, dn, norm, 1e-7)


@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_central_differences(assert_differences, generator, kind):
    norm = make(kind, 5, generator)
    z, dn = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))

    def scalar(z, gamma=norm.gamma, beta=norm.beta):
        return (norm_forward_(norm._replace(gamma=gamma, beta=beta), z.clone(), pass_of(kind, 6))[0] * dn).sum()

    _, cache = norm_forward_(norm, z.clone(), pass_of(kind, 6))
    dz, dgamma, dbeta = norm_backward_(norm, dn.clone(), cache)
    assert_differences("dz", scalar, z, dz)
    assert_differences("dgamma", lambda gamma: scalar(z, gamma=gamma), norm.gamma, dgamma)
    assert_differences("dbeta", lambda beta: scalar(z, beta=beta), norm.beta, dbeta)


@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_a_spread_that_is_small_beside_the_mean(kind, generator):
    """E[Z²] − μ² would keep no digit of a variance of 1 beside a mean of 10⁴ in float32."""
    z = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    norm = make(kind, 64, generator, torch.float32)
    z32 = (z + 1e4).float()
    n, _ = norm_forward_(norm, z32.clone(), pass_of(kind, 64))
    expected = torchs(kind, z32.double(), norm, norm.gamma.double(), norm.beta.double())
    torch.testing.assert_close(n.double(), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_z_becomes_z_hat_and_dn_becomes_dz(kind, generator):
    norm = make(kind, 5, generator)
    z, dn, memory = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    n, cache = norm_forward_(norm, z, pass_of(kind, 6), memory)
    assert n is memory
    assert cache.z_hat is z
    assert norm_backward_(norm, dn, cache)[0] is dn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_in_half_precision_are_widened(kind, dtype, generator):
    norm = make(kind, 64, generator, dtype)
    z = torch.randn(32, 64, generator=generator)
    n, cache = norm_forward_(norm, z.clone(), pass_of(kind, 32), torch.empty(32, 64, dtype=dtype))
    wide = Norm(*(None if part is None else part.float() for part in norm))
    expected = torchs(kind, z, wide, wide.gamma, wide.beta)
    assert n.dtype == dtype
    assert cache.z_hat.dtype == torch.float32
    torch.testing.assert_close(n.float(), expected, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


def test_one_sample_has_no_spread(generator):
    """torch refuses it; here N = β, and nothing flows back but dβ."""
    norm = make("batch", 5, generator)
    z, dn = (torch.randn(1, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    n, cache = norm_forward_(norm, z, TrainingPass(1))
    assert torch.equal(n, norm.beta.view(1, 5))
    dz, dgamma, dbeta = norm_backward_(norm, dn.clone(), cache)
    assert not dz.any()
    assert not dgamma.any()
    assert torch.equal(dbeta, dn[0])


def test_samples_of_several_processes_are_normalised_together(generator):
    """Two shares and an empty one in turn, with the sums that an all-reduce would give them."""
    norm = make("batch", 5, generator)
    z, dn = (torch.randn(9, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    n, cache = norm_forward_(norm, z.clone(), TrainingPass(9))
    whole = [n, *norm_backward_(norm, dn.clone(), cache)]
    shares = [slice(0, 4), slice(4, 4), slice(4, 9)]
    # The sums, in the order in which a pass asks for them: Σ Z, Σ (Z − μ)², and those of dγ and dβ.
    sums = [cache.mean * 9, cache.var * 9, torch.stack(whole[2:])]
    found = []
    for share in shares:
        asked = []

        def total(tensor, asked=asked):
            asked.append(tensor.clone())
            return tensor.copy_(sums[len(asked) - 1])

        n, cache = norm_forward_(norm, z[share].clone(), TrainingPass(9, total=total))
        found.append([n, *norm_backward_(norm, dn[share].clone(), cache), *asked])
    n, dz, dgamma, dbeta, *asked = zip(*found, strict=True)
    for got, expected in zip((torch.cat(n), torch.cat(dz), sum(dgamma), sum(dbeta)), whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for got, expected in zip(asked, sums, strict=True):
        torch.testing.assert_close(sum(got), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_running_statistics_are_torchs(dtype, generator):
    reference = nn.BatchNorm1d(5, dtype=dtype)
    norm = make("batch", 5, generator, dtype)
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
    assert reference.eps == EPS
    for samples in (6, 2, 9, 64):
        z = torch.randn(samples, 5, generator=generator, dtype=torch.float64).mul(3).add(2).to(dtype)
        reference(z)
        _, cache = norm_forward_(norm, z.clone(), TrainingPass(samples))
        follow_(norm, cache)
        torch.testing.assert_close(norm.running_mean, reference.running_mean)
        torch.testing.assert_close(norm.running_var, reference.running_var)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_minibatch_that_trains_is_followed(kind, generator):
    norm = make(kind, 5, generator)
    before = [part.clone() for part in norm if part is not None]
    _, cache = norm_forward_(norm, torch.randn(1 if kind == "batch" else 6, 5).double(), pass_of(kind, 1))
    follow_(norm, cache)
    for now, then in zip((part for part in norm if part is not None), before, strict=True):
        assert torch.equal(now.nan_to_num(), then.nan_to_num())
