import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.nn.linear import linear_backward, linear_backward_input, linear_forward

SHAPES = [
    pytest.param(6, 5, 4, id="B6-D5-H4"),
    pytest.param(1, 5, 4, id="one-sample"),
    pytest.param(3, 1, 1, id="width-1"),
    pytest.param(2, 3, 40, id="wide"),
    pytest.param(0, 5, 4, id="no-sample"),
]


def draw(batch: int, width_in: int, width_out: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random X, W, b and dZ in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, width_in), (width_out, width_in), (width_out,), (batch, width_out)
    x, weight, bias, dz = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x, weight, bias, dz


def backward(x: Tensor, weight: Tensor, bias: Tensor, dz: Tensor) -> dict[str, Tensor]:
    """All gradients by hand; those that are written in place start as NaN."""
    dweight, dbias = torch.full_like(weight, torch.nan), torch.full_like(bias, torch.nan)
    linear_backward(dz, x, dweight, dbias)
    return {"dx": linear_backward_input(dz, weight), "dweight": dweight, "dbias": dbias}


@pytest.mark.parametrize(("batch", "width_in", "width_out"), SHAPES)
def test_is_torchs_linear(assert_oracle, batch, width_in, width_out):
    x, weight, bias, dz = draw(batch, width_in, width_out)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    z = F.linear(*leaves)
    assert_oracle("z", linear_forward(x, weight, bias), z.detach())
    oracle = torch.autograd.grad(z, leaves, dz)
    for (name, gradient), expected in zip(backward(x, weight, bias, dz).items(), oracle, strict=True):
        assert_oracle(name, gradient, expected)


def test_is_the_central_difference(assert_differences):
    x, weight, bias, dz = draw(6, 5, 4)
    gradients = backward(x, weight, bias, dz)
    assert_differences("dx", lambda x: (dz * linear_forward(x, weight, bias)).sum(), x, gradients["dx"])
    assert_differences("dweight", lambda w: (dz * linear_forward(x, w, bias)).sum(), weight, gradients["dweight"])
    assert_differences("dbias", lambda b: (dz * linear_forward(x, weight, b)).sum(), bias, gradients["dbias"])


def test_transposed_and_strided_inputs(assert_oracle):
    x, weight, bias, dz = draw(6, 5, 4)
    strided = torch.stack([x, -x], dim=2)[:, :, 0]
    transposed = dz.t().contiguous().t()
    assert not strided.is_contiguous()
    assert not transposed.is_contiguous()
    assert_oracle("z", linear_forward(strided, weight, bias), linear_forward(x, weight, bias))
    expected = backward(x, weight, bias, dz)
    for name, gradient in backward(strided, weight, bias, transposed).items():
        assert_oracle(name, gradient, expected[name])


def test_arguments_are_kept():
    tensors = draw(6, 5, 4)
    before = [t.clone() for t in tensors]
    linear_forward(*tensors[:3])
    backward(*tensors)
    for tensor, kept in zip(tensors, before, strict=True):
        assert torch.equal(tensor, kept)
