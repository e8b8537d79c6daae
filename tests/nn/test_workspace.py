import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.nn.workspace import Workspace

SIZES = (7, 6, 5, 4)


def network(activation="relu", dtype=torch.float64, sizes=SIZES):
    generator = torch.Generator().manual_seed(0)
    return MLP(sizes, activation, "he_notebook", generator=generator, dtype=dtype)


def minibatch(samples, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, SIZES[0], generator=generator, dtype=dtype)
    return x, torch.randn(samples, SIZES[-1], generator=generator, dtype=dtype)


def gradient(workspace, x, dlogits):
    """Logits and the flat gradient, as a training step gets them."""
    logits = workspace.forward(x).clone()
    for k, dz, a in workspace.backward(dlogits):
        workspace.write_gradient(k, dz, a)
    return logits, workspace.network.flat_grad.clone()


def autograd(net, x, dlogits):
    """The same from torch.nn and autograd."""
    parameters = {name: value.double().requires_grad_() for name, value in net.state_dict().items()}
    a = x.double()
    for k in range(len(SIZES) - 1):
        a = F.linear(a, parameters[f"layers.{k}.weight"], parameters[f"layers.{k}.bias"])
        if k < len(SIZES) - 2:
            a = ACTIVATIONS[net.activation].forward(a)
    a.backward(dlogits.double())
    weights = [parameters[f"layers.{k}.weight"].grad.flatten() for k in range(len(SIZES) - 1)]
    biases = [parameters[f"layers.{k}.bias"].grad for k in range(len(SIZES) - 1)]
    return a.detach(), torch.cat([*weights, *biases])


@pytest.mark.parametrize("samples", [1, 9])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_follows_autograd(activation, samples):
    net = network(activation)
    x, dlogits = minibatch(samples)
    for ours, theirs in zip(gradient(Workspace(net), x, dlogits), autograd(net, x, dlogits), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_one_workspace_serves_every_batch_size():
    net = network()
    workspace = Workspace(net)
    for samples in (4, 9, 4, 0, 12, 1, 9):
        x, dlogits = minibatch(samples, seed=samples)
        ours = gradient(workspace, x, dlogits)
        for got, expected in zip(ours, gradient(Workspace(net), x, dlogits), strict=True):
            assert torch.equal(got, expected)
        if not samples:
            assert not ours[1].any()


def test_memory_is_used_again():
    net = network()
    workspace = Workspace(net)
    x, dlogits = minibatch(8)
    pointers = []
    for _ in range(2):
        logits = workspace.forward(x)
        pointers.append(
            [logits.data_ptr(), *((dz.data_ptr(), a.data_ptr()) for _, dz, a in workspace.backward(dlogits))]
        )
    assert pointers[0] == pointers[1]
    # The smaller batch lies in the memory of the larger one.
    assert workspace.forward(x[:3]).data_ptr() == pointers[0][0]


def test_input_and_incoming_gradient_are_left_alone():
    x, dlogits = minibatch(5)
    kept = x.clone(), dlogits.clone()
    gradient(Workspace(network("sigmoid")), x, dlogits)
    assert torch.equal(x, kept[0])
    assert torch.equal(dlogits, kept[1])


def test_weights_may_change_once_their_layer_is_handed_out():
    net = network()
    x, dlogits = minibatch(5)
    _, expected = gradient(Workspace(copy.deepcopy(net)), x, dlogits)
    workspace = Workspace(net)
    workspace.forward(x)
    for k, dz, a in workspace.backward(dlogits):
        workspace.write_gradient(k, dz, a)
        net.layers[k].weight.fill_(float("nan"))
    assert torch.equal(net.flat_grad, expected)


def test_follows_a_parameter_that_was_loaded_anew():
    net, other = network(), network("relu")
    other.flat.mul_(1.5)
    workspace = Workspace(net)
    x, dlogits = minibatch(5)
    gradient(workspace, x, dlogits)
    net.load_state_dict(other.state_dict())
    for got, expected in zip(gradient(workspace, x, dlogits), gradient(Workspace(other), x, dlogits), strict=True):
        assert torch.equal(got, expected)


def test_made_under_inference_mode_it_serves_outside():
    net = network()
    workspace = Workspace(net)
    x, dlogits = minibatch(5)
    with torch.inference_mode():
        workspace.forward(x)
    gradient(workspace, x, dlogits)


class TestMixedPrecision:
    """bfloat16 products beside float32 weights, against float64 autograd and torch's own autocast."""

    @pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_is_off_by_roundings_of_its_dtype(self, activation, dtype):
        net = network(activation, torch.float32)
        x, dlogits = minibatch(64, torch.float32)
        logits, grad = gradient(Workspace(net, dtype), x, dlogits)
        assert (logits.dtype, grad.dtype) == (torch.float32, torch.float32)
        eps = torch.finfo(dtype).eps
        for ours, exact in zip((logits, grad), autograd(net, x, dlogits), strict=True):
            error = (ours.double() - exact).norm() / exact.norm()
            # A few roundings of half an eps, and none at all would be suspicious.
            assert 0.01 * eps < error < 3 * eps

    def test_is_as_exact_as_autocast(self):
        net = network("tanh", torch.float32, sizes=SIZES)
        x, dlogits = minibatch(256, torch.float32)
        _, exact = autograd(net, x, dlogits)
        _, ours = gradient(Workspace(net, torch.bfloat16), x, dlogits)

        layers = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(SIZES)]
        model = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
        for k, layer in enumerate(layers):
            layer.weight.data.copy_(net.layers[k].weight)
            layer.bias.data.copy_(net.layers[k].bias)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
        logits.backward(dlogits.to(logits.dtype))
        theirs = torch.cat([layer.weight.grad.flatten() for layer in layers] + [layer.bias.grad for layer in layers])
        errors = [float((gradient.double() - exact).norm()) for gradient in (ours, theirs)]
        assert errors[0] < 1.5 * errors[1]

    def test_master_weights_keep_what_the_copy_cannot_hold(self):
        net = network("relu", torch.float32)
        x, _ = minibatch(5, torch.float32)
        workspace = Workspace(net, torch.bfloat16)
        before = workspace.forward(x).clone()
        # Each step is far below a bfloat16 rounding, under which a weight of one dtype would stand still for ever.
        for _ in range(100):
            net.flat.mul_(1 + 2**-12)
        assert not torch.equal(workspace.forward(x), before)

    def test_the_networks_own_dtype_is_not_mixed(self):
        assert not Workspace(network(dtype=torch.float32), torch.float32).is_mixed
        assert not Workspace(network(dtype=torch.bfloat16)).is_mixed
        assert Workspace(network(dtype=torch.float32), torch.bfloat16).is_mixed
