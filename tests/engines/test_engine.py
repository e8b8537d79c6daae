"""The step that ``fit`` runs, beside torch.nn, autograd and torch.optim, and beside itself in its other forms."""

import pytest
import torch
from fixtures.steps import engine_of
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, normalize

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.nn.draws import Draws
from mlp_lightning.optim import SGD, Adam, Muon

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
    step = engine_of(net, SoftmaxCrossEntropy("sum"), rule(net), reduction=reduction, **options)
    for batch in minibatches(steps, dtype=dtype):
        step(batch, lr, keep_gradient=keep_gradient)
    return step, net


def train_with_torch(make_optimizer, *, steps=20, reduction="mean", clip=None):
    """The weights after the same steps by torch, in float64."""
    model = torch_network(network())
    optimizer = make_optimizer(model.parameters())
    for batch in minibatches(steps):
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y, reduction=reduction).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return flat_weights(model)


def torch_network(net):
    linears = [nn.Linear(fan_in, fan_out).double() for fan_out, fan_in in (w.shape for w, *_ in net.layers)]
    for linear, layer in zip(linears, net.layers, strict=True):
        linear.weight.data.copy_(layer.weight)
        linear.bias.data.copy_(layer.bias)
    return nn.Sequential(linears[0], nn.Tanh(), linears[1], nn.Tanh(), linears[2])


def flat_weights(model):
    linears = model[::2]
    weights = [linear.weight.detach().flatten() for linear in linears]
    return torch.cat([*weights, *(linear.bias.detach() for linear in linears)])


def divergence(model, x, r):
    return kl_div(
        model(x + r).log_softmax(1), model(x).detach().log_softmax(1), log_target=True, reduction="none"
    ).sum()


@pytest.mark.parametrize(
    ("rule", "theirs", "reduction", "clip"),
    [
        pytest.param(lambda n: SGD([n.flat], 0.1), lambda p: torch.optim.SGD(p, 0.1), "mean", None, id="sgd"),
        pytest.param(lambda n: SGD([n.flat], 0.1), lambda p: torch.optim.SGD(p, 0.1), "sum", 1.0, id="sum-clipped"),
        pytest.param(lambda n: Adam([n.flat], 0.1), lambda p: torch.optim.Adam(p, 0.1), "mean", 0.3, id="adam"),
    ],
)
def test_an_adversary_goes_where_autograds_does(rule, theirs, reduction, clip):
    """Weights and smoothing belong to the cross-entropy alone, and so does the normalizer of weighted classes."""
    steps, seed, weight, eps, xi = 10, 3, 0.7, 1.5, 1e-4
    settings = {"label_smoothing": 0.1, "class_weights": torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)}
    net = network()
    term = VirtualAdversary(net, weight=weight, eps=eps, xi=xi)
    loss = SoftmaxCrossEntropy("sum", **settings)
    step = engine_of(net, loss, rule(net), reduction=reduction, clip_norm=clip, adversary=term, seed=seed)

    model = torch_network(network())
    optimizer, draws = theirs(model.parameters()), Draws(seed, "vat")
    cross = nn.CrossEntropyLoss(settings["class_weights"], label_smoothing=0.1, reduction=reduction)
    for t, batch in enumerate(minibatches(steps)):
        loss_sum, normalizer = step(batch, 0.1, step=t)
        draws.start(t, len(batch.x))
        r = (xi * normalize(draws.normal(SIZES[0]).double())).requires_grad_()
        (g,) = torch.autograd.grad(divergence(model, batch.x, r), r)
        kl = divergence(model, batch.x, eps * normalize(g, eps=1e-300))
        expected = cross(model(batch.x), batch.y)
        torch.testing.assert_close(term.divergence, kl.detach(), rtol=1e-6, atol=0)
        torch.testing.assert_close(loss_sum / (normalizer if reduction == "mean" else 1), expected.detach())
        optimizer.zero_grad()
        (expected + weight * kl / (len(batch.x) if reduction == "mean" else 1)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    torch.testing.assert_close(net.flat.detach(), flat_weights(model), rtol=1e-6, atol=1e-6)


def test_without_an_adversary_no_bit_changes_and_nothing_is_drawn(monkeypatch):
    monkeypatch.setattr(Draws, "start", lambda *args: pytest.fail("random numbers"))
    train(lambda n: SGD([n.flat], 0.1))


def test_an_adversary_of_no_weight_changes_nothing_but_roundings():
    _, plain = train(lambda n: SGD([n.flat], 0.1))
    net = network()
    term = VirtualAdversary(net, weight=0.0, eps=1.0)
    step = engine_of(net, SoftmaxCrossEntropy("sum"), SGD([net.flat], 0.1), reduction="mean", adversary=term)
    for t, batch in enumerate(minibatches(20)):
        step(batch, 0.1, step=t)
    torch.testing.assert_close(net.flat, plain.flat, rtol=1e-12, atol=1e-12)


def test_an_adversarys_directions_follow_from_seed_and_step():
    def weights(seed, first_step):
        net = network()
        term = VirtualAdversary(net, weight=1.0, eps=1.0)
        rule = SGD([net.flat], 0.1)
        step = engine_of(net, SoftmaxCrossEntropy("sum"), rule, reduction="mean", adversary=term, seed=seed)
        for t, batch in enumerate(minibatches(2), start=first_step):
            step(batch, 0.1, step=t)
        return net.flat

    assert torch.equal(weights(0, 0), weights(0, 0))
    assert not torch.equal(weights(0, 0), weights(1, 0))
    assert not torch.equal(weights(0, 0), weights(0, 1))


@pytest.mark.parametrize("rule", [lambda n: SGD([n.flat], 0.1), lambda n: Adam([n.flat], 0.01)], ids=["sgd", "adam"])
@pytest.mark.parametrize("products", [torch.bfloat16, None], ids=["bf16-mixed", "32-true"])
def test_an_adversary_in_few_bits_goes_where_float64_goes(rule, products):
    ends = []
    for dtype, of_products in ((torch.float64, None), (torch.float32, products)):
        net = network(dtype)
        # The same ξ for all: how much it changes r is for its own tests to say.
        term = VirtualAdversary(net, weight=1.0, eps=0.5, xi=0.3, dtype=of_products)
        loss = SoftmaxCrossEntropy("sum")
        step = engine_of(net, loss, rule(net), reduction="mean", dtype_of_products=of_products, adversary=term)
        for t, batch in enumerate(minibatches(20, dtype=dtype)):
            step(batch, 0.01, step=t)
        ends.append(net.flat.double())
    moved = (ends[0] - network().flat).norm()
    assert 0 < (ends[0] - ends[1]).norm() < (0.1 if products else 1e-3) * moved


@pytest.mark.parametrize(
    ("rule", "is_fused"),
    [(lambda n: SGD([n.flat], 0.1), True), (lambda n: Adam([n.flat], 0.1), False)],
    ids=["sgd", "adam"],
)
@pytest.mark.parametrize(
    "constraints", [{"l1": 0.5}, {"max_norm": 0.8}, {"l1": 0.5, "max_norm": 0.8}], ids=["l1", "max_norm", "both"]
)
def test_constraints_follow_every_step(constraints, rule, is_fused):
    """Torch's softshrink and renorm after the same step without them, one step at a time."""
    net = network()
    step = engine_of(net, SoftmaxCrossEntropy("sum"), rule(net), reduction="mean", **constraints)
    assert step.is_fused is is_fused
    plain = network()
    plain_step = engine_of(plain, SoftmaxCrossEntropy("sum"), rule(plain), reduction="mean")
    for batch in minibatches(5):
        plain.flat.copy_(net.flat)
        step(batch, 0.05)
        plain_step(batch, 0.05)
        for layer, before in zip(net.layers, plain.layers, strict=True):
            weight = torch.nn.functional.softshrink(before.weight, 0.05 * constraints.get("l1", 0.0))
            if "max_norm" in constraints:
                weight = torch.renorm(weight, 2, 0, constraints["max_norm"])
            torch.testing.assert_close(layer.weight, weight, rtol=1e-6, atol=1e-6)
            assert torch.equal(layer.bias, before.bias)
    if "l1" in constraints:
        assert (net.flat[: net.weight_numel] == 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_muon_takes_the_products_dtype(dtype):
    shapes = [tuple(layer.weight.shape) for layer in network().layers]
    ends = []
    for products in (None, dtype):
        start = network(torch.float32)
        rule = Muon([start.flat], 0.01, shapes)
        step = engine_of(start, SoftmaxCrossEntropy("sum"), rule, reduction="mean", dtype_of_products=products)
        for batch in minibatches(5, dtype=torch.float32):
            step(batch, 0.01)
        assert rule.dtype_of_products == products
        ends.append(start.flat.detach() - network(torch.float32).flat)
    assert 0 < (ends[0] - ends[1]).norm() < 0.1 * ends[0].norm()


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
    assert step.is_fused is isinstance(step.rule, SGD)
    error = (mixed.flat.double() - exact.flat).norm()
    assert 0 < error < 0.05 * (exact.flat - start).norm()


class TestLossScaling:
    """float16 products on the CPU, which Lightning offers on CUDA alone."""

    def make(self, scale):
        net = network(torch.float32)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        rule = SGD([net.flat], 0.1)
        loss = SoftmaxCrossEntropy("sum")
        return net, scaler, engine_of(net, loss, rule, reduction="mean", dtype_of_products=torch.float16, scaler=scaler)

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
            step._dloss = lambda n, logits, step=step: step.recipe.scaler.scale(logits.new_ones(())) * 1e-8
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
        step.l1, step._memory = 1.0, torch.empty(net.weight_numel)
        scaler.update(2.0**24)
        step(batch, 0.1)
        assert torch.equal(net.flat, before)
        step.l1 = 0.0
        for batch in minibatches(20, dtype=torch.float32):
            step(batch, 0.1)
        assert not torch.equal(net.flat, before)
        assert net.flat.isfinite().all()
