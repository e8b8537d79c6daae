"""The step that ``fit`` runs, beside torch.nn, autograd and torch.optim, and beside itself in its other forms."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mlp_lightning.data.loader import Batch
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.optim import SGD, Adam
from mlp_lightning.training.hand_step import HandStep

SIZES = (12, 9, 7, 4)


def network(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return MLP(SIZES, "tanh", "he_notebook", generator=generator, dtype=torch.float64).to(dtype)


def minibatches(count, samples=16, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.rand(samples, SIZES[0], generator=generator, dtype=torch.float64).to(dtype)
        y = torch.randint(SIZES[-1], (samples,), generator=generator)
        yield Batch(x, y, x[:0], y[:0], samples)


def train(rule, *, steps=20, lr=0.1, dtype=torch.float64, keep_gradient=False, reduction="mean", **options):
    """The step and the weights after some steps."""
    net = network(dtype)
    step = HandStep(net, SoftmaxCrossEntropy("sum"), rule(net), reduction=reduction, **options)
    for batch in minibatches(steps, dtype=dtype):
        step(batch, lr, keep_gradient=keep_gradient)
    return step, net


def train_with_torch(make_optimizer, *, steps=20, reduction="mean", clip=None):
    """The weights after the same steps by torch, in float64."""
    net = network()
    linears = [nn.Linear(fan_in, fan_out).double() for fan_out, fan_in in (w.shape for w, *_ in net.layers)]
    for linear, layer in zip(linears, net.layers, strict=True):
        linear.weight.data.copy_(layer.weight)
        linear.bias.data.copy_(layer.bias)
    model = nn.Sequential(linears[0], nn.Tanh(), linears[1], nn.Tanh(), linears[2])
    optimizer = make_optimizer(model.parameters())
    for batch in minibatches(steps):
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y, reduction=reduction).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    weights = [linear.weight.detach().flatten() for linear in linears]
    return torch.cat([*weights, *(linear.bias.detach() for linear in linears)])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_plain_sgd_adds_to_the_weights_what_torch_does(weight_decay, reduction):
    lr = 0.1 if reduction == "mean" else 0.01
    step, net = train(lambda n: SGD([n.flat], lr, weight_decay=weight_decay), lr=lr, reduction=reduction)
    assert step.adds_to_weights
    expected = train_with_torch(lambda p: torch.optim.SGD(p, lr, weight_decay=weight_decay), reduction=reduction)
    torch.testing.assert_close(net.flat.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "theirs", "options"),
    [
        pytest.param(
            lambda n: SGD([n.flat], 0.1, momentum=0.9),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
            {},
            id="momentum",
        ),
        pytest.param(lambda n: SGD([n.flat], 0.1), lambda p: torch.optim.SGD(p, 0.1), {"clip_norm": 0.2}, id="clipped"),
        pytest.param(lambda n: Adam([n.flat], 0.1), lambda p: torch.optim.Adam(p, 0.1), {}, id="adam"),
    ],
)
def test_whatever_needs_the_gradient_first_gets_it(rule, theirs, options):
    step, net = train(rule, **options)
    assert not step.adds_to_weights
    expected = train_with_torch(theirs, clip=options.get("clip_norm"))
    torch.testing.assert_close(net.flat.detach(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_keeping_the_gradient_changes_no_bit_of_the_update(dtype):
    (_, without), (_, with_it) = (
        train(lambda n: SGD([n.flat], 0.1), dtype=dtype, keep_gradient=keep) for keep in (False, True)
    )
    assert torch.equal(without.flat, with_it.flat)
    assert not without.flat_grad.any()
    assert with_it.flat_grad.any()


def test_samples_are_counted():
    step, _ = train(lambda n: SGD([n.flat], 0.1), steps=3)
    assert step.samples_seen == 48


def test_state_made_under_inference_mode_serves_outside():
    for rule in (lambda n: SGD([n.flat], 0.1, momentum=0.9), lambda n: Adam([n.flat], 0.1)):
        step, _ = train(rule, steps=0)
        for batch in minibatches(2):
            with torch.inference_mode():
                step(batch, 0.1)
        for batch in minibatches(2):
            step(batch, 0.1)


@pytest.mark.parametrize("rule", [lambda n: SGD([n.flat], 0.1), lambda n: Adam([n.flat], 0.01)], ids=["sgd", "adam"])
def test_mixed_precision_goes_where_float64_goes(rule):
    """20 steps end within the roundings of bfloat16 gradients, and far nearer than where they began."""
    start = network().flat.detach()
    _, exact = train(rule, lr=0.01)
    step, mixed = train(rule, lr=0.01, dtype=torch.float32, dtype_of_products=torch.bfloat16)
    assert mixed.flat.dtype == mixed.flat_grad.dtype == torch.float32
    assert not step.adds_to_weights
    error = (mixed.flat.double() - exact.flat).norm()
    assert 0 < error < 0.05 * (exact.flat - start).norm()


class TestLossScaling:
    """float16 products on the CPU, which Lightning offers on CUDA alone."""

    def make(self, scale):
        net = network(torch.float32)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        rule = SGD([net.flat], 0.1)
        loss = SoftmaxCrossEntropy("sum")
        return net, scaler, HandStep(net, loss, rule, reduction="mean", dtype_of_products=torch.float16, scaler=scaler)

    def test_the_gradient_does_not_depend_on_the_scale(self):
        gradients = []
        for scale in (1.0, 2.0**10):
            net, _, step = self.make(scale)
            (batch,) = minibatches(1, dtype=torch.float32)
            step(batch, 0.1)
            gradients.append(net.flat_grad.clone())
        difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
        assert difference < 2 * torch.finfo(torch.float16).eps

    def test_small_deltas_survive_by_it_alone(self):
        # A mean over a million samples scales every delta below what float16 can hold.
        shares = []
        for scale in (1.0, 2.0**16):
            net, _, step = self.make(scale)
            step._dloss = lambda n, logits, step=step: step.scaler.scale(logits.new_ones(())) * 1e-8
            (batch,) = minibatches(1, dtype=torch.float32)
            step(batch, 0.0)
            shares.append(float((net.flat_grad != 0).float().mean()))
        assert shares[0] < 0.1
        assert shares[1] > 0.9

    def test_a_step_that_overflows_is_left_out_and_the_scale_halved(self):
        net, scaler, step = self.make(2.0**24)
        before = net.flat.clone()
        (batch,) = minibatches(1, dtype=torch.float32)
        step(batch, 0.1)
        assert torch.equal(net.flat, before)
        assert scaler.get_scale() == 2.0**23
        for batch in minibatches(20, dtype=torch.float32):
            step(batch, 0.1)
        assert not torch.equal(net.flat, before)
        assert net.flat.isfinite().all()
