"""The term of virtual adversarial training: value, direction and gradient by autograd in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlp_lightning.engines.adversary import DEFAULT_XI, VirtualAdversary, kl_backward, kl_forward
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.engines.passes import LayerDelta
from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.nn.training_pass import TrainingPass

SIZES = (30, 16, 12, 5)
SAMPLES = 24
# ∇D(ξ d) is a difference of probabilities, of size ξ: where ours and autograd's are compared, ξ leaves them digits.
EPS, XI = 1.5, 1e-3
TOLERANCE = 1e-8


def network(activation="tanh", dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return MLP(SIZES, activation, "he_notebook", generator=generator, dtype=torch.float64).to(dtype)


def minibatch(samples=SAMPLES, dtype=torch.float64, seed=1):
    """x, and the start d of the power iteration."""
    generator = torch.Generator().manual_seed(seed)
    x, d = (torch.randn(samples, SIZES[0], generator=generator, dtype=torch.float64) for _ in range(2))
    return x.to(dtype), d.to(dtype)


def adversary(net, **options):
    return VirtualAdversary(net, **{"weight": 1.0, "eps": EPS, **options})


def perturbed(net, x, d, dtype=None, **options):
    """r, as a training step finds it."""
    logits = NativePasses(net, dtype).forward(x)
    found = adversary(net, dtype=dtype, **options)
    found.forward(x, logits, d.clone())
    return found.x_r - x


def divergence(twin, x, r):
    """D(r), with p a constant."""
    return F.kl_div(twin(x + r).log_softmax(1), twin(x).detach().log_softmax(1), log_target=True, reduction="sum")


def direction_by_autograd(twin, x, d, xi=XI, iterations=1):
    """The direction of ∇D(ξ d), ``iterations`` times over."""
    for _ in range(iterations):
        r = (xi * F.normalize(d)).requires_grad_()
        (d,) = torch.autograd.grad(divergence(twin, x, r), r)
    return F.normalize(d, eps=1e-300)


def hessian_times(twin, x, d):
    """H d of D at r = 0, by two derivatives."""
    r = torch.zeros_like(x, requires_grad=True)
    (gradient,) = torch.autograd.grad(divergence(twin, x, r), r, create_graph=True)
    return torch.autograd.grad(gradient, r, d)[0]


def cosines(one, other):
    return F.cosine_similarity(one.double(), other.double(), dim=1, eps=1e-300)


def leading_eigenvector(twin, x):
    d = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    for _ in range(300):
        d = F.normalize(hessian_times(twin, x, d), eps=1e-300)
    return d


def step_gradient(net, x, dlogits, d, scale=1.0, dtype=None, **options):
    """Σ KL and the flat gradient of both terms, as a training step gets them."""
    workspace, term = NativePasses(net, dtype), adversary(net, dtype=dtype, **options)
    value = term.forward(x, workspace.forward(x), d.clone())
    for k, dz, a in term.backward(workspace, dlogits, scale):
        workspace.write_gradient(LayerDelta(k, dz, a))
    return value, net.flat_grad.clone(), term.x_r - x


def flat_gradient(model):
    linears = [module for module in model if isinstance(module, nn.Linear)]
    return torch.cat([*(linear.weight.grad.flatten() for linear in linears), *(linear.bias.grad for linear in linears)])


class TestDivergence:
    @pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
    def test_is_torchs(self, spread, generator, assert_oracle):
        logits = spread * torch.randn(2, 9, 5, dtype=torch.float64, generator=generator)
        p, q = logits[0], logits[1].clone().requires_grad_()
        expected = F.kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="sum")
        expected.backward()
        log_p, log_q = p.log_softmax(1), q.detach().log_softmax(1)
        assert_oracle("KL", kl_forward(log_p, log_q), expected.detach(), 1e-14)
        assert_oracle("dlogits", kl_backward(log_p, log_q), q.grad, 1e-14)

    def test_is_zero_between_equals(self, generator):
        log_p = torch.randn(4, 5, generator=generator).log_softmax(1)
        assert kl_forward(log_p, log_p) == 0
        assert not kl_backward(log_p, log_p.clone()).any()

    def test_certain_rows_keep_their_digits(self):
        """In float32 a probability near 1 has lost the differences that those of the other classes still hold."""
        logits = torch.tensor([[20.0, 0.0, -1.0], [0.0, 25.0, 1.0]], dtype=torch.float64)
        moved = logits + torch.tensor([[0.0, 0.3, -0.1], [0.2, 0.0, 0.4]], dtype=torch.float64)
        exact = moved.softmax(1) - logits.softmax(1)
        ours = kl_backward(logits.float().log_softmax(1), moved.float().log_softmax(1))
        assert ((ours.double() - exact).abs() <= 1e-5 * exact.abs()).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_direction_is_that_of_autograds_gradient(activation, twin):
    net, (x, d) = network(activation), minibatch()
    r = perturbed(net, x, d, xi=XI)
    torch.testing.assert_close(r.norm(dim=1), torch.full((SAMPLES,), EPS, dtype=torch.float64))
    expected = EPS * direction_by_autograd(twin(net), x, d)
    torch.testing.assert_close(r, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("iterations", [2, 5])
def test_further_iterations_go_on_from_the_direction_found(iterations, twin):
    net, (x, d) = network(), minibatch()
    expected = EPS * direction_by_autograd(twin(net), x, d, iterations=iterations)
    torch.testing.assert_close(perturbed(net, x, d, xi=XI, iterations=iterations), expected, rtol=0, atol=TOLERANCE)


PRECISIONS = {
    "64-true": (torch.float64, None),
    "32-true": (torch.float32, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-true": (torch.bfloat16, None),
}


class TestPowerIteration:
    """By its default ξ every precision finds what the exact Hessian gives, and so the leading eigenvector."""

    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    @pytest.mark.parametrize(
        ("precision", "least"),
        [("64-true", 1 - 1e-9), ("32-true", 0.99), ("16-mixed", 0.95), ("bf16-mixed", 0.85), ("bf16-true", 0.85)],
    )
    def test_one_iteration_multiplies_by_the_hessian(self, precision, least, activation, twin):
        dtype, products = PRECISIONS[precision]
        net, (x, d) = network(activation, dtype), minibatch(200, dtype)
        exact = hessian_times(twin(copy.deepcopy(net).double()), x.double(), d.double())
        assert cosines(perturbed(net, x, d, products), exact).median() > least

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_finds_the_leading_eigenvector_far_better_than_chance(self, precision, twin):
        dtype, products = PRECISIONS[precision]
        net, (x, d) = network("relu", dtype), minibatch(200, dtype)
        best = leading_eigenvector(twin(copy.deepcopy(net).double()), x.double())
        by_chance = cosines(d, best).abs().mean()
        found = [cosines(perturbed(net, x, d, products, iterations=n), best).abs().mean() for n in (1, 4)]
        assert found[0] > 3 * by_chance
        assert found[1] > max(0.85, found[0])

    def test_r_changes_the_outputs_more_than_other_steps_of_its_length(self, twin):
        net, (x, d) = network(), minibatch()
        model, small = twin(net), 1e-2
        adversarial = divergence(model, x, perturbed(net, x, d, eps=small, iterations=20))
        generator = torch.Generator().manual_seed(9)
        others = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(20)]
        assert all(adversarial > 2 * divergence(model, x, small * F.normalize(r)) for r in others)

    @pytest.mark.parametrize("length", [1e-3, 1.0, 50.0])
    def test_the_length_of_d_does_not_matter(self, length):
        net, (x, d) = network(), minibatch()
        torch.testing.assert_close(perturbed(net, x, length * d), perturbed(net, x, d), rtol=0, atol=1e-7)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("scale", [1.0, 1 / SAMPLES])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_gradient_is_autograds_for_fixed_p_and_r(activation, scale, weight, twin, assert_oracle):
    net, (x, d) = network(activation), minibatch()
    targets = torch.arange(SAMPLES) % SIZES[-1]
    model = twin(net)
    logits = model(x)
    cross_entropy = F.cross_entropy(logits, targets, reduction="sum")
    (dlogits,) = torch.autograd.grad(cross_entropy, logits, retain_graph=True)
    value, gradient, r = step_gradient(net, x, dlogits * scale, d, scale, weight=weight)
    kl = divergence(model, x, r)
    (scale * (cross_entropy + weight * kl)).backward()
    assert_oracle("KL", value, kl.detach(), 1e-10)
    assert_oracle("gradient", gradient, flat_gradient(model), 1e-10)


def test_moving_p_or_r_along_would_be_another_gradient(twin):
    """p(·|x) and r are constants: the oracle above would tell if they were not."""
    net, (x, d) = network(), minibatch()
    _, gradient, r = step_gradient(net, x, torch.zeros(SAMPLES, SIZES[-1], dtype=torch.float64), d)
    model = twin(net)
    F.kl_div(model(x + r).log_softmax(1), model(x).log_softmax(1), log_target=True, reduction="sum").backward()
    assert (flat_gradient(model) - gradient).norm() > 0.1 * gradient.norm()


def test_mixed_precision_is_off_by_roundings(twin):
    net, (x, d) = network("relu", torch.float32), minibatch(dtype=torch.float32)
    dlogits = torch.zeros(SAMPLES, SIZES[-1])
    _, gradient, r = step_gradient(net, x, dlogits, d, dtype=torch.bfloat16)
    model = twin(copy.deepcopy(net).double())
    divergence(model, x.double(), r.double()).backward()
    error = (gradient.double() - flat_gradient(model)).norm() / flat_gradient(model).norm()
    assert 1e-4 < error < 0.03


def test_one_adversary_serves_every_batch_size():
    net = network()
    term, workspace = adversary(net), NativePasses(net)
    for samples in (4, 9, 4, 0, 12, 1, 9):
        x, d = minibatch(samples, seed=samples)
        dlogits = torch.ones(samples, SIZES[-1], dtype=torch.float64)
        value = term.forward(x, workspace.forward(x), d.clone())
        for k, dz, a in term.backward(workspace, dlogits):
            workspace.write_gradient(LayerDelta(k, dz, a))
        expected = step_gradient(copy.deepcopy(net), x, dlogits, d)
        assert torch.equal(value, expected[0])
        assert torch.equal(net.flat_grad, expected[1])
        if not samples:
            assert value == 0
            assert not net.flat_grad.any()


def test_samples_do_not_meddle_with_each_other():
    net, (x, d) = network(), minibatch()
    whole = perturbed(net, x, d)
    torch.testing.assert_close(perturbed(net, x[7:9], d[7:9]), whole[7:9], rtol=0, atol=1e-7)


def test_a_network_that_is_constant_is_left_alone():
    net, (x, d) = network(), minibatch()
    net.flat.zero_()
    value, gradient, r = step_gradient(net, x, torch.zeros(SAMPLES, SIZES[-1], dtype=torch.float64), d, eps=100.0)
    assert (value, gradient.any(), r.any()) == (0, False, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_any_size_give_finite_numbers(dtype):
    net, (x, d) = network("relu", dtype), minibatch(dtype=dtype)
    net.flat.mul_(30)
    for part in step_gradient(net, x, torch.zeros(SAMPLES, SIZES[-1], dtype=dtype), d.float()):
        assert part.isfinite().all()


def test_inputs_are_left_alone_and_memory_is_used_again():
    net, (x, d) = network(), minibatch()
    term, workspace, kept = adversary(net), NativePasses(net), x.clone()
    pointers = []
    for _ in range(2):
        term.forward(x, workspace.forward(x), d.clone())
        dlogits = torch.ones(SAMPLES, SIZES[-1], dtype=torch.float64)
        joined = [(dz.data_ptr(), a.data_ptr()) for _, dz, a in term.backward(workspace, dlogits)]
        pointers.append([term.x_r.data_ptr(), *joined])
    assert pointers[0] == pointers[1]
    assert torch.equal(x, kept)


def test_made_under_inference_mode_it_serves_outside():
    net, (x, d) = network(), minibatch()
    term, workspace = adversary(net), NativePasses(net)
    dlogits = torch.ones(SAMPLES, SIZES[-1], dtype=torch.float64)

    def step():
        term.forward(x, workspace.forward(x), d.clone())
        for k, dz, a in term.backward(workspace, dlogits):
            workspace.write_gradient(LayerDelta(k, dz, a))

    with torch.inference_mode():
        step()
    step()


def test_weights_may_change_once_their_layer_is_handed_out():
    net, (x, d) = network(), minibatch()
    dlogits = torch.ones(SAMPLES, SIZES[-1], dtype=torch.float64)
    _, expected, _ = step_gradient(copy.deepcopy(net), x, dlogits, d)
    term, workspace = adversary(net), NativePasses(net)
    term.forward(x, workspace.forward(x), d.clone())
    for k, dz, a in term.backward(workspace, dlogits):
        workspace.write_gradient(LayerDelta(k, dz, a))
        net.layers[k].weight.fill_(float("nan"))
    assert torch.equal(net.flat_grad, expected)


@pytest.mark.parametrize("dtype", PRECISIONS.values(), ids=PRECISIONS)
def test_every_precision_has_a_default_xi(dtype):
    parameter, products = dtype
    assert adversary(network(dtype=parameter), dtype=products).xi == DEFAULT_XI[products or parameter]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -0.1}, "weight must be zero or more and finite, got -0.1"),
        ({"weight": float("inf")}, "weight must be zero or more and finite, got inf"),
        ({"eps": 0.0}, "eps must be above zero and finite, got 0.0"),
        ({"eps": float("nan")}, "eps must be above zero and finite, got nan"),
        ({"xi": -1.0}, "xi must be above zero and finite, got -1.0"),
        ({"xi": float("inf")}, "xi must be above zero and finite, got inf"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_arguments_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        adversary(network(), **options)


class TestDropoutAndNorms:
    """All passes see the same masks, and each takes the statistics of its own minibatch."""

    def layers_by_torch(self, net, masks):
        """The network as a function, and its parameters, in the order of the flat gradient."""
        layers, norms = (
            [(one.clone().requires_grad_(), other.clone().requires_grad_()) for one, other, *_ in group]
            for group in (net.layers, net.norms)
        )

        def forward(x):
            a = x
            for k, (weight, bias) in enumerate(layers):
                z = F.linear(a if masks[k] is None else a * masks[k], weight, bias)
                if net.norm == "batch" and norms[k:]:
                    z = F.batch_norm(z, None, None, *norms[k], training=True)
                elif norms[k:]:
                    z = F.layer_norm(z, z.shape[1:], *norms[k])
                a = torch.tanh(z)
            return z

        return forward, [pair[i] for group in (layers, norms) for i in (0, 1) for pair in group]

    @pytest.mark.parametrize("dropped", [False, True], ids=["no dropout", "dropout"])
    @pytest.mark.parametrize("norm", ["none", "batch", "layer"])
    def test_direction_value_and_gradient_are_autograds(self, norm, dropped, generator, assert_oracle):
        net = MLP(SIZES, "tanh", generator=generator, dtype=torch.float64, norm=norm)
        x, d = minibatch()
        masks = Dropout(SIZES, 0.3, 0.2, 0, dtype=torch.float64).masks(0, SAMPLES) if dropped else [None] * 3
        training = TrainingPass(SAMPLES, masks if dropped else ())
        workspace, term = NativePasses(net), adversary(net, xi=XI, weight=0.7)
        value = term.forward(x, workspace.forward(x, training), d.clone(), training)
        dlogits = torch.randn(SAMPLES, SIZES[-1], dtype=torch.float64, generator=generator)
        for k, dz, a in term.backward(workspace, dlogits, 0.5):
            workspace.write_gradient(LayerDelta(k, dz, a))

        forward, parameters = self.layers_by_torch(net, masks)
        expected = EPS * direction_by_autograd(forward, x, d)
        torch.testing.assert_close(term.r, expected, rtol=0, atol=TOLERANCE)
        kl = divergence(forward, x, term.r)
        ((forward(x) * dlogits).sum() + 0.5 * 0.7 * kl).backward()
        assert_oracle("KL", value, kl.detach())
        views = [pair[i] for group in (net.layers, net.norms) for i in (2, 3) for pair in group]
        for ours, theirs in zip(views, parameters, strict=True):
            # That of a bias before batch norm is 0, and rounding is no share of it.
            torch.testing.assert_close(ours, theirs.grad, rtol=1e-10, atol=1e-10)
