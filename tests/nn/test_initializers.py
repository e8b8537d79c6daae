import math

import pytest
import torch
from scipy import stats

from mlp_lightning.nn import INITIALIZERS, MLP

FAN_OUT, FAN_IN = 2000, 120
DRAWN = [name for name in INITIALIZERS if name != "zeros"]
# P values are uniform when the distribution is right; the seed is fixed, so the outcome is as well.
SMALLEST_P = 1e-3
STANDARD_ERRORS = 4
ORTHOGONALITY = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 5e-2}

VARIANCES = {
    "glorot_uniform": 2 / (FAN_IN + FAN_OUT),
    "glorot_normal": 2 / (FAN_IN + FAN_OUT),
    "he_normal": 2 / FAN_IN,
    "he_uniform": 2 / FAN_IN,
    "he_notebook": 2 / FAN_IN,
    "lecun_normal": 1 / FAN_IN,
}
UNIFORM = {"glorot_uniform", "he_uniform"}


def fill(name, shape=(FAN_OUT, FAN_IN), seed=0, dtype=torch.float64):
    """Weight and bias after the initialiser, from NaN."""
    weight, bias = torch.full(shape, torch.nan, dtype=dtype), torch.full(shape[:1], torch.nan, dtype=dtype)
    assert INITIALIZERS[name](weight, bias, torch.Generator().manual_seed(seed)) is None
    return weight, bias


def distribution(name):
    std = math.sqrt(VARIANCES[name])
    bound = math.sqrt(3) * std
    return stats.uniform(-bound, 2 * bound) if name in UNIFORM else stats.norm(0, std)


def test_every_initializer_is_covered():
    assert set(VARIANCES) | {"zeros", "orthogonal"} == set(INITIALIZERS)


@pytest.mark.parametrize("name", VARIANCES)
def test_mean_and_variance(name):
    weight, _ = fill(name)
    n, variance = weight.numel(), VARIANCES[name]
    excess_over_one = 0.8 if name in UNIFORM else 2.0  # kurtosis − 1: 9/5 − 1 and 3 − 1
    assert weight.mean().item() == pytest.approx(0, abs=STANDARD_ERRORS * math.sqrt(variance / n))
    assert weight.var().item() == pytest.approx(variance, rel=STANDARD_ERRORS * math.sqrt(excess_over_one / n))


@pytest.mark.parametrize("name", VARIANCES)
def test_distribution(name):
    weight, _ = fill(name)
    assert stats.kstest(weight.flatten().numpy(), distribution(name).cdf).pvalue > SMALLEST_P


@pytest.mark.parametrize("name", sorted(UNIFORM))
def test_uniform_bounds(name):
    weight, _ = fill(name)
    bound = math.sqrt(3 * VARIANCES[name])
    assert weight.abs().max() <= bound
    assert weight.max() > 0.999 * bound
    assert weight.min() < -0.999 * bound


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name != "he_notebook"])
def test_biases_are_zero(name):
    assert not fill(name)[1].any()


def test_notebook_biases_are_standard_normal():
    _, bias = fill("he_notebook")
    assert stats.kstest(bias.numpy(), stats.norm(0, 1).cdf).pvalue > SMALLEST_P


def test_zeros():
    assert not fill("zeros")[0].any()


@pytest.mark.parametrize("dtype", ORTHOGONALITY, ids=str)
@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 20), (1, 9), (9, 1), (1, 1)], ids=str)
def test_orthogonal(shape, dtype):
    weight = fill("orthogonal", shape, dtype=dtype)[0].double()
    product = weight.t() @ weight if shape[0] > shape[1] else weight @ weight.t()
    identity = torch.eye(min(shape), dtype=torch.float64)
    torch.testing.assert_close(product, identity, rtol=0, atol=ORTHOGONALITY[dtype])


def test_orthogonal_is_uniformly_distributed():
    """Every entry of a Haar matrix of order n has mean 0, second moment 1/n, and the trace has variance 1."""
    draws = torch.stack([fill("orthogonal", (3, 3), seed)[0] for seed in range(2000)])
    standard_error = 1 / math.sqrt(3 * len(draws))
    assert draws.mean(0).abs().max() < STANDARD_ERRORS * standard_error
    assert (draws.square().mean(0) - 1 / 3).abs().max() < STANDARD_ERRORS * standard_error
    traces = draws.diagonal(dim1=1, dim2=2).sum(1)
    assert traces.var().item() == pytest.approx(1, abs=STANDARD_ERRORS * math.sqrt(2 / len(draws)))


@pytest.mark.parametrize("name", INITIALIZERS)
def test_same_generator_same_weights(name):
    for first, second in zip(fill(name, seed=3), fill(name, seed=3), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_gives_other_weights(name):
    assert not torch.equal(fill(name, seed=3)[0], fill(name, seed=4)[0])


@pytest.mark.parametrize("name", INITIALIZERS)
def test_mlp_draws_layer_after_layer_from_the_generator(name):
    net = MLP([7, 5, 3], init=name, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for layer in net.layers:
        weight, bias = torch.empty_like(layer.weight), torch.empty_like(layer.bias)
        INITIALIZERS[name](weight, bias, generator)
        assert torch.equal(layer.weight, weight)
        assert torch.equal(layer.bias, bias)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_global_generator_is_untouched(name):
    before = torch.get_rng_state()
    MLP([7, 5, 3], init=name)
    MLP([7, 5, 3], init=name, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", DRAWN)
def test_without_a_generator_the_seed_is_zero(name):
    seeded = MLP([7, 5, 3], init=name, generator=torch.Generator().manual_seed(0))
    assert torch.equal(MLP([7, 5, 3], init=name).flat, seeded.flat)


@pytest.mark.parametrize("init", INITIALIZERS)
def test_default_device_changes_nothing(init: str) -> None:
    # Lightning builds the model under its own device, which the CPU generator could not draw on.
    with torch.device("meta"):
        network = MLP([6, 5, 3], init=init)
    assert network.flat.device.type == "cpu"
    assert torch.equal(network.flat, MLP([6, 5, 3], init=init).flat)
