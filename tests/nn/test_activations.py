import numpy as np
import pytest
import torch
from fixtures.counterparts import TORCH_ACTIVATIONS
from scipy.special import ndtr
from torch import Tensor

from mlp_lightning.nn import ACTIVATIONS

DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64")]
EXTREMES = [0.0, -0.0, 1e3, -1e3, 1e30, -1e30, 1e-30, -1e-30]
# Entry by entry, a few units in the last place.
ENTRY_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
FLOAT64_TAIL_TOLERANCE = 1e-12
FLOAT32_TAIL_TOLERANCE = 2e-5  # rounding z moves e^(−z²/2) by z² eps, 1.2e-5 at z = −10


def autograd(module, z: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) and da · f′(z) by torch."""
    leaf = z.clone().requires_grad_()
    a = module(leaf)
    return a.detach(), torch.autograd.grad(a, leaf, da)[0]


@pytest.mark.parametrize("shape", [(7, 13), (1, 1), (0, 4)], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_forward_and_backward_are_torchs(assert_oracle, torch_activation, generator, name, shape):
    z = 3 * torch.randn(shape, dtype=torch.float64, generator=generator)
    da = torch.randn(shape, dtype=torch.float64, generator=generator)
    a = ACTIVATIONS[name].forward(z)
    dz = ACTIVATIONS[name].backward(da, z, a)
    a_oracle, dz_oracle = autograd(torch_activation(name), z, da)
    assert_oracle(f"{name} a", a, a_oracle)
    assert_oracle(f"{name} dz", dz, dz_oracle)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_backward_is_the_central_difference(assert_differences, generator, name):
    z = 3 * torch.randn(5, 8, dtype=torch.float64, generator=generator)
    da = torch.randn(5, 8, dtype=torch.float64, generator=generator)
    f = ACTIVATIONS[name]
    assert_differences(f"{name} dz", lambda z: (da * f.forward(z)).sum(), z, f.backward(da, z, f.forward(z)), 40)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_extreme_inputs_and_kinks(torch_activation, name, dtype):
    z = torch.tensor([EXTREMES], dtype=dtype)
    da = torch.linspace(-1, 2, z.numel(), dtype=dtype).view_as(z)
    a = ACTIVATIONS[name].forward(z)
    dz = ACTIVATIONS[name].backward(da, z, a)
    a_oracle, dz_oracle = autograd(torch_activation(name), z, da)
    assert a.isfinite().all()
    assert dz.isfinite().all()
    torch.testing.assert_close(a, a_oracle, rtol=ENTRY_TOLERANCE[dtype], atol=0)
    torch.testing.assert_close(dz, dz_oracle, rtol=ENTRY_TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize(
    ("name", "slope"),
    [pytest.param("relu", 0.0, id="relu"), pytest.param("leaky_relu", 0.01, id="leaky_relu"), ("elu", 1.0)],
)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_derivative_at_the_kink(name, slope, zero):
    z = torch.tensor([[zero]], dtype=torch.float64)
    f = ACTIVATIONS[name]
    assert f.backward(torch.ones_like(z), z, f.forward(z)).item() == slope


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_monotone_and_finite_over_the_tails(name, dtype):
    z = torch.cat([torch.linspace(-800, -40, 500), torch.linspace(-40, 40, 8001), torch.linspace(40, 800, 500)])
    z = z.to(dtype).unsqueeze(0)
    f = ACTIVATIONS[name]
    a = f.forward(z)
    dz = f.backward(torch.ones_like(z), z, a)
    assert a.isfinite().all()
    assert dz.isfinite().all()
    minimum = TORCH_ACTIVATIONS[name].minimum
    rising = z[0] > (-torch.inf if minimum is None else minimum + 0.01)
    assert (a[0, rising].diff() >= 0).all()
    assert (dz[0, rising] >= 0).all()
    if minimum is not None:
        falling = z[0] < minimum - 0.01
        assert (a[0, falling].diff() <= 0).all()
        assert (dz[0, falling] <= 0).all()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float32, FLOAT32_TAIL_TOLERANCE, id="float32"),
        pytest.param(torch.float64, FLOAT64_TAIL_TOLERANCE, id="float64"),
    ],
)
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        pytest.param("softplus", lambda z: np.logaddexp(0, z), id="softplus"),
        pytest.param("gelu", lambda z: z * ndtr(z), id="gelu"),
    ],
)
def test_tails_keep_relative_precision(name, oracle, dtype, tolerance):
    z = torch.linspace(-10, 30, 401, dtype=dtype)
    expected = torch.from_numpy(oracle(z.double().numpy()))
    torch.testing.assert_close(ACTIVATIONS[name].forward(z).double(), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_arguments_are_kept_and_types_follow(generator, name, dtype):
    z, da = (torch.randn(4, 3, dtype=dtype, generator=generator) for _ in range(2))
    z_before, da_before = z.clone(), da.clone()
    a = ACTIVATIONS[name].forward(z)
    a_before = a.clone()
    dz = ACTIVATIONS[name].backward(da, z, a)
    for tensor, before in ((z, z_before), (da, da_before), (a, a_before)):
        assert torch.equal(tensor, before)
    assert a.dtype == dz.dtype == dtype
