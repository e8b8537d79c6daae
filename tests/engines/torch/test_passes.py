import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlp_lightning.engines.passes import LayerDelta, LinearStep
from mlp_lightning.engines.torch.passes import TorchPasses
from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.nn.training_pass import TrainingPass

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
        workspace.write_gradient(LayerDelta(k, dz, a))
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


def test_memory_is_used_again():
    net = network()
    workspace = TorchPasses(net)
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
    gradient(TorchPasses(network("sigmoid")), x, dlogits)
    assert torch.equal(x, kept[0])
    assert torch.equal(dlogits, kept[1])


def test_weights_may_change_once_their_layer_is_handed_out():
    net = network()
    x, dlogits = minibatch(5)
    _, expected = gradient(TorchPasses(copy.deepcopy(net)), x, dlogits)
    workspace = TorchPasses(net)
    workspace.forward(x)
    for k, dz, a in workspace.backward(dlogits):
        workspace.write_gradient(LayerDelta(k, dz, a))
        net.layers[k].weight.fill_(float("nan"))
    assert torch.equal(net.flat_grad, expected)


def test_made_under_inference_mode_it_serves_outside():
    net = network()
    workspace = TorchPasses(net)
    x, dlogits = minibatch(5)
    with torch.inference_mode():
        workspace.forward(x)
    gradient(workspace, x, dlogits)


NORMS_AND_DROPOUT = [(norm, p) for norm in ("none", "batch", "layer") for p in (0.0, 0.3)]


def normed(norm, activation="relu", dtype=torch.float64):
    net = MLP(SIZES, activation, "he_notebook", norm=norm, generator=torch.Generator().manual_seed(0), dtype=dtype)
    net.flat[net.weight_numel :].uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return net


def training_of(samples, p, dtype=torch.float64, step=0):
    return TrainingPass(samples, Dropout(SIZES, p, p / 2, 0, dtype=dtype).masks(step, samples) if p else ())


def trained_gradient(workspace, x, dlogits, training):
    workspace.network.flat_grad.fill_(float("nan"))
    logits = workspace.forward(x, training).clone()
    for k, dz, a in workspace.backward(dlogits):
        workspace.write_gradient(LayerDelta(k, dz, a))
    return logits, workspace.network.flat_grad.clone()


class TestNormsAndDropout:
    """Against the passes of MLP, which test_mlp.py proves against autograd."""

    def by_the_network(self, net, x, dlogits, training):
        logits, cache = net.forward(x, training)
        net.backward(dlogits, cache)
        return logits, net.flat_grad.clone()

    @pytest.mark.parametrize(("norm", "p"), NORMS_AND_DROPOUT)
    def test_one_workspace_serves_every_batch_size_and_both_kinds_of_pass(self, norm, p):
        net = normed(norm)
        workspace = TorchPasses(net)
        for samples, trains in ((4, True), (9, False), (9, True), (3, True), (3, False), (12, True), (9, True)):
            x, dlogits = minibatch(samples, seed=samples)
            training = training_of(samples, p, step=samples) if trains else None
            ours = trained_gradient(workspace, x, dlogits, training)
            for got, expected in zip(ours, trained_gradient(TorchPasses(net), x, dlogits, training), strict=True):
                assert torch.equal(got, expected)

    @pytest.mark.parametrize("dtype", [None, torch.bfloat16])
    def test_memory_is_used_again(self, dtype):
        net = normed("batch", dtype=torch.float32)
        workspace = TorchPasses(net, dtype)
        x, dlogits = minibatch(8, torch.float32)
        pointers = []
        for _ in range(2):
            workspace.forward(x, training_of(8, 0.3, dtype or torch.float32))
            pointers.append([(dz.data_ptr(), a.data_ptr()) for k, dz, a in workspace.backward(dlogits) if k < 2])
        assert pointers[0] == pointers[1]

    def test_running_statistics_follow_when_told_alone(self):
        net, reference = normed("batch"), nn.BatchNorm1d(SIZES[1]).double()
        workspace = TorchPasses(net)
        for seed in range(3):
            x, _ = minibatch(9, seed=seed)
            workspace.forward(x, TrainingPass(9))
            before = net.running.clone()
            workspace.forward(x)
            workspace.follow()
            assert torch.equal(net.running, before)
            workspace.forward(x, TrainingPass(9))
            workspace.follow()
            reference(F.linear(x, net.layers[0].weight, net.layers[0].bias))
            torch.testing.assert_close(net.norms[0].running_mean, reference.running_mean)
            torch.testing.assert_close(net.norms[0].running_var, reference.running_var)

    @pytest.mark.parametrize(("norm", "p"), NORMS_AND_DROPOUT)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_mixed_precision_is_off_by_roundings_of_its_dtype(self, dtype, norm, p):
        net = normed(norm, "tanh", torch.float32)
        x, dlogits = minibatch(64, torch.float32)
        logits, grad = trained_gradient(TorchPasses(net, dtype), x, dlogits, training_of(64, p, dtype))
        assert (logits.dtype, grad.dtype) == (torch.float32, torch.float32)
        exact = self.by_the_network(net.double(), x.double(), dlogits.double(), training_of(64, p))
        for ours, expected in zip((logits, grad), exact, strict=True):
            error = (ours.double() - expected).norm() / expected.norm()
            assert 0.01 * torch.finfo(dtype).eps < error < 5 * torch.finfo(dtype).eps


class TestMixedPrecision:
    """bfloat16 products beside float32 weights, against float64 autograd and torch's own autocast."""

    def test_is_as_exact_as_autocast(self):
        net = network("tanh", torch.float32, sizes=SIZES)
        x, dlogits = minibatch(256, torch.float32)
        _, exact = autograd(net, x, dlogits)
        _, ours = gradient(TorchPasses(net, torch.bfloat16), x, dlogits)

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
        workspace = TorchPasses(net, torch.bfloat16)
        before = workspace.forward(x).clone()
        # Each step is far below a bfloat16 rounding, under which a weight of one dtype would stand still for ever.
        for _ in range(100):
            net.flat.mul_(1 + 2**-12)
        assert not torch.equal(workspace.forward(x), before)

    def test_the_networks_own_dtype_is_not_mixed(self):
        assert not TorchPasses(network(dtype=torch.float32), torch.float32).is_mixed
        assert not TorchPasses(network(dtype=torch.bfloat16)).is_mixed
        assert TorchPasses(network(dtype=torch.float32), torch.bfloat16).is_mixed


def test_mixed_precision_in_torch_decays_weights_and_biases_each_by_its_own_factor():
    """Layer by layer, as where the processor has no products in bfloat16."""
    (x, dlogits), (net, other) = minibatch(9, torch.float32), (network("tanh", torch.float32) for _ in range(2))
    gradient(TorchPasses(other, torch.bfloat16), x, dlogits)
    expected = [
        (0.5 * layer.weight - 0.1 * layer.dweight, 0.75 * layer.bias - 0.1 * layer.dbias) for layer in other.layers
    ]
    workspace = TorchPasses(net, torch.bfloat16)
    workspace.forward(x)
    workspace.update_in_products(dlogits, LinearStep(-0.1, 0.5, 0.75))
    for layer, (weight, bias) in zip(net.layers, expected, strict=True):
        torch.testing.assert_close(layer.weight.detach(), weight.detach(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(layer.bias.detach(), bias.detach(), rtol=1e-6, atol=1e-7)
