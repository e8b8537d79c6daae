"""The layer in C against the same in float64, and the workspace that uses it against autograd."""

import pytest
import torch
from torch.nn import functional as F

from mlp_lightning.engines.native import chain as native_chain
from mlp_lightning.engines.native.compile import compilation
from mlp_lightning.engines.native.library import library
from mlp_lightning.engines.native.linear import native_linear
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.engines.passes import LayerDelta, LinearStep
from mlp_lightning.engines.torch.in_place import LinearInPlace
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy

pytestmark = pytest.mark.skipif(native_linear() is None, reason="no C compiler, or no BLAS that its code could call")

# Rows, fan_in and fan_out: single ones, odd ones, and such as several threads share.
SHAPES = [(0, 3, 2), (1, 1, 1), (5, 7, 3), (64, 30, 65), (300, 40, 129)]


def draw(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def close(ours, expected):
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("least", [None, 0.0])
@pytest.mark.parametrize(("rows", "fan_in", "fan_out"), SHAPES)
def test_forward(rows, fan_in, fan_out, least, threads):
    x, weight, bias = draw((rows, fan_in), (fan_out, fan_in), (fan_out,))
    z = native_linear().forward(x, weight, bias, torch.full((rows, fan_out), float("nan")), least)
    expected = F.linear(x.double(), weight.double(), bias.double())
    close(z, expected if least is None else expected.relu())


@pytest.mark.parametrize(("rows", "fan_in", "fan_out"), SHAPES)
def test_backward_input(rows, fan_in, fan_out, threads):
    dz, weight = draw((rows, fan_out), (fan_out, fan_in))
    dx = native_linear().backward_input(dz, weight, torch.full((rows, fan_in), float("nan")))
    close(dx, dz.double() @ weight.double())


@pytest.mark.parametrize(("share", "keep", "keep_bias"), [(1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (-0.1, 0.9, 1.0)])
@pytest.mark.parametrize(("rows", "fan_in", "fan_out"), SHAPES)
def test_backward(rows, fan_in, fan_out, share, keep, keep_bias, threads):
    dz, x, weight, bias = draw((rows, fan_out), (rows, fan_in), (fan_out, fan_in), (fan_out,))
    expected_weight = keep * weight.double() + share * dz.double().t() @ x.double()
    expected_bias = keep_bias * bias.double() + share * dz.double().sum(0)
    if keep == keep_bias == 0:
        weight.fill_(float("nan"))
        bias.fill_(float("nan"))
    native_linear().backward(dz, x, weight, bias, LinearStep(share, keep, keep_bias))
    close(weight, expected_weight)
    close(bias, expected_bias)


@pytest.mark.parametrize("numel", [0, 1, 7, 8192, 50_001])
def test_relu_backward(numel, threads):
    da, a = draw((numel,), (numel,))
    a.relu_()
    expected = torch.where(a > 0, da, 0)
    assert torch.equal(native_linear().relu_backward_(da, a), expected)


def test_what_is_not_a_number_stays():
    nan = float("nan")
    x, weight, bias = torch.tensor([[nan, 1.0]]), torch.eye(2), torch.zeros(2)
    assert native_linear().forward(x, weight, bias, torch.empty(1, 2), 0.0).isnan().all()
    da = torch.tensor([nan, nan])
    assert native_linear().relu_backward_(da, torch.tensor([1.0, 0.0])).tolist()[1] == 0
    assert da[0].isnan()


def test_bits_do_not_depend_on_threads_around_the_products():
    dz, x = draw((300, 129), (300, 1))
    found = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        bias = torch.zeros(129)
        native_linear().backward(dz, x, torch.empty(129, 1), bias)
        torch.set_num_threads(before)
        found.append(bias)
    assert torch.equal(*found)


def network(activation, norm="none"):
    generator = torch.Generator().manual_seed(0)
    return MLP((20, 150, 90, 4), activation, "he_normal", norm=norm, generator=generator, dtype=torch.float32)


def step(net, x, y, training=None):
    """Logits and gradient of a workspace, and whether its layers were computed in C."""
    workspace, loss = NativePasses(net), SoftmaxCrossEntropy("mean")
    logits = workspace.forward(x, training)
    _, cache = loss.forward(logits, y)
    logits = logits.clone()
    for k, dz, a in workspace.backward(loss.backward(cache)):
        workspace.write_gradient(LayerDelta(k, dz, a))
    return logits, net.flat_grad.clone(), workspace.is_native


@pytest.mark.parametrize(
    "x", [torch.randn(3, 19), torch.randn(3, 20).double(), torch.randn(60)], ids=["width", "dtype", "ndim"]
)
def test_an_input_that_does_not_fit_is_torchs_to_refuse(x):
    with pytest.raises((RuntimeError, IndexError)):
        NativePasses(network("relu")).forward(x)


def test_an_input_whose_rows_are_not_contiguous():
    net = network("relu")
    x, y = draw((20, 70))[0].t(), torch.arange(70) % 4
    logits, gradient, is_native = step(net, x, y)
    assert not is_native
    for ours, expected in zip((logits, gradient), step(net, x.contiguous(), y)[:2], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def without_a_compiler(monkeypatch):
    monkeypatch.setenv("CC", "")
    for cached in (compilation, library, native_linear, native_chain._product):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (compilation, library, native_linear, native_chain._product):
        cached.cache_clear()


def test_the_workspace_works_without_a_compiler(without_a_compiler):
    net = network("relu")
    assert native_linear() is None
    _, _, is_native = step(net, draw((7, 20))[0], torch.arange(7) % 4)
    assert not is_native


def test_the_layer_in_torch_has_the_same_interface():
    (dz, x, weight, bias), linear = draw((9, 4), (9, 6), (4, 6), (4,)), LinearInPlace()
    z = linear.forward(x, weight, bias, torch.empty(9, 4))
    close(z, native_linear().forward(x, weight, bias, torch.empty(9, 4)).double())
    for share, keep, keep_bias in ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (-0.1, 0.9, 1.0)):
        ours, theirs = (weight.clone(), bias.clone()), (weight.clone(), bias.clone())
        linear.backward(dz, x, *ours, LinearStep(share, keep, keep_bias))
        native_linear().backward(dz, x, *theirs, LinearStep(share, keep, keep_bias))
        for one, other in zip(ours, theirs, strict=True):
            close(one, other.double())
