import pytest
import torch

from mlp_lightning.engines.torch.in_place import IN_PLACE
from mlp_lightning.nn.activations import ACTIVATIONS

# Far into saturation on both sides, the kink, and in between.
Z = torch.cat([torch.linspace(-40, 40, 801), torch.linspace(-1, 1, 201)])


def test_every_activation_is_there():
    assert list(IN_PLACE) == list(ACTIVATIONS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", IN_PLACE)
def test_follows_autograd(activation, dtype):
    z = Z.double().requires_grad_()
    a = ACTIVATIONS[activation].forward(z)
    da = torch.linspace(-3, 5, len(z), dtype=torch.float64)
    (expected,) = torch.autograd.grad(a, z, da)

    forward, backward = IN_PLACE[activation].forward, IN_PLACE[activation].backward
    ours = z.detach().to(dtype).clone()
    out = forward(ours)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(out.double(), a.detach(), rtol=tolerance, atol=tolerance)
    dz = backward(da.to(dtype), ours, out)
    torch.testing.assert_close(dz.double(), expected, rtol=4 * tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "identity"])
def test_no_memory_is_made(activation):
    z, da = torch.randn(5, 3), torch.randn(5, 3)
    pointers = z.data_ptr(), da.data_ptr()
    a = IN_PLACE[activation].forward(z)
    dz = IN_PLACE[activation].backward(da, z, a)
    assert (a.data_ptr(), dz.data_ptr()) == pointers
