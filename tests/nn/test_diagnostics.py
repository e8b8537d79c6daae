"""Diagnostics against autograd's gradients of single samples, constructed networks, and minibatches of known noise."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.nn import ACTIVATIONS, LOSSES, MLP, SoftmaxCrossEntropy
from mlp_lightning.nn.diagnostics import (
    NoiseScale,
    dead_share,
    mean_abs,
    noise_estimates,
    norm,
    rms,
    sample_gradient_norms,
    saturated_share,
)
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.nn.mlp import Cache
from mlp_lightning.nn.training_pass import TrainingPass

SIZES = (6, 9, 5, 4)


def network(sizes=SIZES, activation: str = "tanh", norm: str = "none") -> MLP:
    generator = torch.Generator().manual_seed(0)
    net = MLP(sizes, activation, norm=norm, generator=generator, dtype=torch.float64)
    net.flat[net.weight_numel :].normal_(generator=generator)
    return net


def minibatch(net: MLP, n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, net.sizes[0], generator=generator, dtype=torch.float64)
    return x, torch.randint(net.sizes[-1], (n,), generator=generator)


def torchs_loss(name: str, logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    if name == "mse":
        return F.mse_loss(logits, F.one_hot(y, logits.shape[1]).to(logits), reduction=reduction)
    return F.cross_entropy(logits, y, reduction=reduction)


def norms_of_single_samples(twin, net: MLP, name: str, x: Tensor, y: Tensor, reduction: str) -> Tensor:
    """One autograd pass for each sample."""
    reference = twin(net)
    norms = []
    for i in range(len(y)):
        loss = torchs_loss(name, reference(x[i : i + 1]), y[i : i + 1], reduction)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    return torch.stack(norms)


def norms_at_once(net: MLP, loss, x: Tensor, y: Tensor, dloss: float) -> Tensor:
    logits, cache = net.forward(x)
    deltas: list[Tensor] = []
    net.backward(loss.backward(loss.forward(logits, y)[1], dloss), cache, deltas=deltas)
    return sample_gradient_norms(cache, deltas)


@pytest.mark.parametrize("sizes", [SIZES, (6, 4), (1, 1, 2)], ids=["two-hidden", "no-hidden", "width-1"])
@pytest.mark.parametrize("n", [1, 7], ids=["one-sample", "seven"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sample_gradient_norms_of_a_sum_are_autograds(assert_oracle, twin, activation, loss, n, sizes):
    net = network(sizes, activation)
    x, y = minibatch(net, n)
    norms = norms_at_once(net, LOSSES[loss]("sum"), x, y, 1.0)
    assert_oracle("norms", norms, norms_of_single_samples(twin, net, loss, x, y, "sum"))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mean_divides_every_sample_gradient_by_the_number_of_samples(assert_oracle, twin, loss):
    net = network()
    x, y = minibatch(net, 7)
    singles = norms_of_single_samples(twin, net, loss, x, y, "mean")
    assert_oracle("as in the mean", norms_at_once(net, LOSSES[loss]("mean"), x, y, 1.0), singles / 7)
    assert_oracle("of single samples", norms_at_once(net, LOSSES[loss]("mean"), x, y, 7.0), singles)


def norms_with_norms(net, x, y, training):
    logits, cache = net.forward(x, training)
    deltas, norm_deltas = [], []
    loss = SoftmaxCrossEntropy("sum")
    net.backward(loss.backward(loss.forward(logits, y)[1]), cache, deltas=deltas, norm_deltas=norm_deltas)
    return sample_gradient_norms(cache, deltas, norm_deltas)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_norms_of_single_samples_with_norm_and_dropout(assert_oracle, twin, norm):
    """Batch norm in evaluation, where samples have losses of their own."""
    net = network(norm=norm)
    x, y = minibatch(net, 7)
    masks = Dropout(SIZES, 0.3, 0.2, 0, dtype=torch.float64).masks(0, 7) if norm != "batch" else []
    norms = norms_with_norms(net, x, y, TrainingPass(7, masks) if masks else None)
    singles = []
    for i in range(7):
        reference = twin(net, [mask[i : i + 1] for mask in masks]).eval()
        gradients = torch.autograd.grad(F.cross_entropy(reference(x[i : i + 1]), y[i : i + 1]), reference.parameters())
        singles.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert_oracle("norms", norms, torch.stack(singles))


def test_batch_norms_summands_are_those_of_the_minibatchs_gradient():
    net = network(norm="batch")
    x, y = minibatch(net, 7)
    norms = norms_with_norms(net, x, y, TrainingPass(7))
    # Copies of every parameter, one a sample: the gradient of a copy is that sample's summand.
    copies = {
        name: value.expand(7, *value.shape).clone().requires_grad_()
        for name, value in net.state_dict().items()
        if "running" not in name
    }
    a = x
    for k in range(3):
        a = torch.einsum("bd,bhd->bh", a, copies[f"layers.{k}.weight"]) + copies[f"layers.{k}.bias"]
        if k < 2:
            z_hat = F.batch_norm(a, None, None, training=True)
            a = torch.tanh(z_hat * copies[f"norms.{k}.weight"] + copies[f"norms.{k}.bias"])
    F.cross_entropy(a, y, reduction="sum").backward()
    squares = sum(copy.grad.flatten(1).square().sum(1) for copy in copies.values())
    torch.testing.assert_close(norms, squares.sqrt(), rtol=1e-10, atol=0)


def test_layers_must_match():
    net = network()
    _, cache = net.forward(minibatch(net, 2)[0])
    with pytest.raises(ValueError, match="zip"):
        sample_gradient_norms(cache, [torch.ones(2, 4)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sizes_of_a_tensor(dtype):
    tensor = torch.tensor([[3.0, 0.0], [-4.0, 0.0]], dtype=dtype)
    assert float(norm(tensor)) == pytest.approx(5)
    assert float(rms(tensor)) == pytest.approx(2.5)
    assert float(mean_abs(tensor)) == pytest.approx(1.75)


def test_half_precision_does_not_overflow():
    half = torch.full((1000,), 60000.0, dtype=torch.float16)
    assert float(norm(half)) == pytest.approx(60000 * math.sqrt(1000), rel=1e-3)
    assert float(mean_abs(half)) == pytest.approx(60000, rel=1e-3)
    rows = half.view(10, 100)
    cache = Cache([None])
    cache.append((rows, rows, rows))
    norms = sample_gradient_norms(cache, [rows])
    assert norms.tolist() == pytest.approx([600000.0**2] * 10, rel=1e-3)


@pytest.mark.parametrize(
    ("activation", "z", "expected"),
    [
        pytest.param("relu", [[-1.0, -1.0, 1.0, 0.0], [-2.0, 3.0, 1.0, -1.0]], 0.5, id="relu-on-one-sample-lives"),
        pytest.param("relu", [[0.0, 0.0]], 1.0, id="relu-at-its-kink"),
        pytest.param("relu", [[math.nan, 1.0]], 0.0, id="nan-is-not-dead"),
        pytest.param("leaky_relu", [[-1e30, -1.0]], 0.0, id="leaky-never"),
        pytest.param("identity", [[-1.0, 0.0]], 0.0, id="identity-never"),
        pytest.param("sigmoid", [[90.0, 3.0, -300.0, 5.0]], 0.5, id="sigmoid-rounded-to-its-bounds"),
        pytest.param("tanh", [[90.0, 3.0, -90.0, 5.0]], 0.5, id="tanh-rounded-to-its-bounds"),
        pytest.param("elu", [[-90.0, -1.0]], 0.5, id="elu"),
        pytest.param("softplus", [[-300.0, -1.0]], 0.5, id="softplus"),
        pytest.param("silu", [[-300.0, -1.0]], 0.5, id="silu"),
        pytest.param("gelu", [[-300.0, -1.0]], 0.5, id="gelu"),
    ],
)
def test_dead_share(activation, z, expected):
    z = torch.tensor(z)
    assert float(dead_share(activation, z, ACTIVATIONS[activation].forward(z))) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dead_units_are_those_without_a_derivative_in_autograd(activation, torch_activation):
    z = torch.linspace(-400, 400, 60).view(3, 20).t().reshape(3, 20).requires_grad_()
    derivative = torch.autograd.grad(torch_activation(activation)(z).sum(), z)[0]
    expected = float((derivative.abs().amax(0) == 0).float().mean())
    z = z.detach()
    assert float(dead_share(activation, z, ACTIVATIONS[activation].forward(z))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("activation", "a", "expected"),
    [
        pytest.param("sigmoid", [[0.005, 0.02], [0.98, 0.999]], 0.5, id="sigmoid"),
        pytest.param("tanh", [[-0.995, -0.98], [0.005, 0.995]], 0.5, id="tanh"),
        pytest.param("tanh", [[1.0, -1.0]], 1.0, id="at-the-bounds"),
        pytest.param("sigmoid", [[0.5]], 0.0, id="none"),
    ],
)
def test_saturated_share(activation, a, expected):
    assert float(saturated_share(activation, torch.tensor(a))) == expected


def test_saturation_needs_bounds():
    with pytest.raises(ValueError, match=r"^activation must be one of sigmoid, tanh, got 'relu'$"):
        saturated_share("relu", torch.ones(1, 1))


def described(gradients: Tensor) -> tuple[float, float, int]:
    """A minibatch of sample gradients ``(B, P)`` as ``noise_estimates`` wants it."""
    return float(gradients.square().sum(1).mean()), float(gradients.mean(0).square().sum()), len(gradients)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_noise_estimates_are_unbiased(n):
    # Every minibatch that can be drawn with replacement from five gradients, each as likely as the next.
    population = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    minibatches = itertools.product(range(5), repeat=n)
    estimates = torch.tensor([noise_estimates(*described(population[list(chosen)])) for chosen in minibatches])
    squared_gradient, trace = estimates.to(torch.float64).mean(0).tolist()
    assert squared_gradient == pytest.approx(float(population.mean(0).square().sum()), rel=1e-5)
    assert trace == pytest.approx(float(torch.cov(population.t(), correction=0).trace()), rel=1e-5)


def test_noise_scale_of_gradients_with_known_covariance():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.tensor([1.5, -0.5, 1.0, 0.0], dtype=torch.float64)
    factor = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    expected = float((factor @ factor.t()).trace() / gradient.square().sum())
    smoothed = NoiseScale(decay=0.9999)
    for n in (8, 32, 128) * 700:
        noise = torch.randn(n, 4, generator=generator, dtype=torch.float64) @ factor.t()
        smoothed.update(*described(gradient + noise))
    assert smoothed.value == pytest.approx(expected, rel=0.1)


def test_noise_scale_is_the_ratio_of_averages():
    smoothed = NoiseScale(decay=0.5)
    # |G|² and tr Σ are 2 and 4, then 6 and 4: B = 2 makes ‖ḡ‖² = |G|² + tr Σ / 2.
    smoothed.update(6.0, 4.0, 2)
    assert smoothed.value == pytest.approx(4 / 2)
    smoothed.update(10.0, 8.0, 2)
    assert smoothed.value == pytest.approx((4 / 3 + 2 * 4 / 3) / (2 / 3 + 2 * 6 / 3))


def test_no_noise_scale_while_noise_hides_the_gradient():
    smoothed = NoiseScale()
    assert smoothed.value is None
    smoothed.update(1.0, 0.0, 4)
    assert smoothed.value is None
    smoothed.update(math.nan, math.nan, 4)
    assert smoothed.value is None


def test_equal_gradients_have_no_noise():
    smoothed = NoiseScale()
    smoothed.update(4.0, 4.0, 8)
    assert smoothed.value == 0


@pytest.mark.parametrize("n", [0, 1])
def test_noise_needs_two_samples(n):
    with pytest.raises(ValueError, match=f"^n_samples must be at least 2, got {n}$"):
        noise_estimates(1.0, 1.0, n)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=rf"^decay must be in \[0, 1\), got {decay}$"):
        NoiseScale(decay)


def test_diagnostics_leave_their_arguments():
    net = network(activation="relu")
    x, y = minibatch(net, 7)
    logits, cache = net.forward(x)
    deltas: list[Tensor] = []
    net.backward(SoftmaxCrossEntropy().backward(SoftmaxCrossEntropy().forward(logits, y)[1]), cache, deltas=deltas)
    tensors = [*deltas, *(tensor for step in cache for tensor in step)]
    before = [tensor.clone() for tensor in tensors]
    sample_gradient_norms(cache, deltas)
    for _, z, a in cache:
        dead_share("relu", z, a)
        saturated_share("tanh", a)
        rms(a)
        mean_abs(a)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(tensors, before, strict=True))
