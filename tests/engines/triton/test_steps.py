"""Steps that are recorded and replayed on a GPU, against autograd and torch.optim, and group by group bit by bit."""

import pytest
import torch
from fixtures.steps import engine_of
from torch.nn import functional as F

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.optim import SGD, Adam, AdamW

pytestmark = pytest.mark.gpu

SIZES = (30, 70, 50, 4)
LR = 0.02
RULES = {
    "sgd": (lambda net: SGD([net.flat], LR), lambda flat: torch.optim.SGD([flat], LR)),
    "sgd, decay": (
        lambda net: SGD([net.flat], LR, weight_decay=0.1),
        lambda flat: torch.optim.SGD([flat], LR, weight_decay=0.1),
    ),
    "momentum": (
        lambda net: SGD([net.flat], LR, momentum=0.9, dampening=0.1),
        lambda flat: torch.optim.SGD([flat], LR, momentum=0.9, dampening=0.1),
    ),
    "nesterov": (
        lambda net: SGD([net.flat], LR, momentum=0.9, nesterov=True),
        lambda flat: torch.optim.SGD([flat], LR, momentum=0.9, nesterov=True),
    ),
    "adam": (lambda net: Adam([net.flat], LR), lambda flat: torch.optim.Adam([flat], LR)),
    "adamw": (
        lambda net: AdamW([net.flat], LR, weight_decay=0.1),
        lambda flat: torch.optim.AdamW([flat], LR, weight_decay=0.1),
    ),
}


def make(rule="sgd", dtype=None, *, activation="relu", reduction="mean", smoothing=0.0, sizes=SIZES, **options):
    network = MLP(sizes, activation, "he_normal", generator=torch.Generator().manual_seed(0)).cuda()
    loss = SoftmaxCrossEntropy("sum", label_smoothing=smoothing)
    return engine_of(network, loss, RULES[rule][0](network), reduction=reduction, dtype_of_products=dtype, **options)


def minibatches(count, samples=64, sizes=SIZES):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count * samples, sizes[0], generator=generator).cuda()
    y = torch.randint(sizes[-1], (count * samples,), generator=generator).cuda()
    pairs = zip(x.split(samples), y.split(samples), strict=True)
    return [Batch(part, classes, x[:0], y[:0], samples) for part, classes in pairs]


def by_autograd(network, batches, make_optimizer, activation, smoothing, reduction="mean"):
    """Losses, the last gradient, and the parameter, in float64."""
    theta = network.flat.detach().double().requires_grad_()
    optimizer, losses = make_optimizer(theta), []
    for batch in batches:
        a, layers = batch.x.double(), network.layers_on(theta, theta)
        for k, layer in enumerate(layers):
            a = a @ layer.weight.t() + layer.bias
            a = getattr(torch, activation)(a) if k < len(layers) - 1 else a
        loss = F.cross_entropy(a, batch.y, label_smoothing=smoothing, reduction=reduction)
        optimizer.zero_grad()
        loss.backward()
        # On a GPU Nesterov's step changes it.
        gradient = theta.grad.clone()
        optimizer.step()
        losses.append(loss.item())
    return losses, gradient, theta.detach()


@pytest.mark.parametrize("samples", [64, 57, 1])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_autograd_and_torch_optim(rule, activation, samples):
    step, batches = make(rule, activation=activation, smoothing=0.1), minibatches(3, samples)
    losses, gradient, theta = by_autograd(step.network, batches, RULES[rule][1], activation, 0.1)
    assert step.one_by_one is None
    found = [step(batch, LR, step=k)[0].item() / samples for k, batch in enumerate(batches)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(losses), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(step.network.flat_grad.double(), gradient, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(step.network.flat.detach().double(), theta, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("sizes", "samples"), [((784, 500, 250, 100, 10), 64), ((784, 1500, 1100, 10), 1024), ((50, 300, 120), 500)]
)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16-mixed"])
def test_networks_of_any_width(sizes, samples, rule, dtype):
    # Of a million ReLUs some are so close to 0 that rounding decides.
    step, batches = make(rule, dtype, activation="tanh", sizes=sizes), minibatches(1, samples, sizes)
    _, gradient, _ = by_autograd(step.network, batches, RULES[rule][1], "tanh", 0.0)
    step(batches[0], LR)
    error = (step.network.flat_grad - gradient).norm() / gradient.norm()
    assert error < (3e-6 if dtype is None else 5e-2)


def test_large_products_of_float32_are_left_to_cublas():
    sizes = (784, 1500, 1100, 10)
    (batch,) = minibatches(1, 1024, sizes)
    assert list(make(sizes=sizes).steps([batch], [LR], 0)) == []
    assert len(list(make(dtype=torch.bfloat16, sizes=sizes).steps([batch], [LR], 0))) == 1


def test_tensor_float_32_where_torch_may_use_it():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        step, batches = make(), minibatches(1)
        _, gradient, _ = by_autograd(step.network, batches, RULES["sgd"][1], "relu", 0.0)
        step(batches[0], LR)
    finally:
        torch.set_float32_matmul_precision(before)
    error = (step.network.flat_grad - gradient).norm() / gradient.norm()
    assert 1e-5 < error < 1e-2


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16-mixed"])
@pytest.mark.parametrize("rule", RULES)
def test_bits_are_those_of_as_many_calls(rule, dtype, reduction):
    batches = minibatches(38)
    rates = [LR / (1 + k) / (1 if reduction == "mean" else 64) for k in range(len(batches))]
    one_by_one, together = (make(rule, dtype, reduction=reduction) for _ in range(2))
    losses = [one_by_one(batch, lr, step=k)[0] for k, (batch, lr) in enumerate(zip(batches, rates, strict=True))]
    found = [together(batches[0], rates[0])[0]]
    for start, stop in ((1, 33), (33, 38)):
        ((count, loss, size, _),) = together.steps(batches[start:stop], rates[start:stop], start)
        assert (size, count) == (64.0 * (stop - start), stop - start)
        found.append(loss)
    assert torch.equal(sum(found), sum(losses))
    assert torch.equal(together.network.flat, one_by_one.network.flat)
    assert together.samples_seen == one_by_one.samples_seen == 38 * 64
    ours, theirs = (step.rule.state_dict()["state"].get(0, {}) for step in (together, one_by_one))
    for name, value in ours.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[name]))
    together.finiteness.look(38, LR)


def test_weights_that_were_written_by_others_are_rounded_anew():
    step, batches = make("sgd", torch.bfloat16), minibatches(2)
    step(batches[0], LR)
    other = make("sgd", torch.bfloat16)
    with torch.inference_mode():
        step.network.flat.detach().copy_(other.network.flat)
    step(batches[1], LR)
    other(batches[1], LR)
    assert torch.equal(step.network.flat, other.network.flat)


def test_a_step_that_is_not_finite_is_found_when_looked_for():
    step, batches = make(), minibatches(40)
    batches[20].x[5, 2] = float("nan")
    list(step.steps(batches[:32], [LR] * 32, 0))
    with pytest.raises(NotFinite, match=r"^step 21 is not finite"):
        step.finiteness.look(32, LR)


@pytest.mark.parametrize("config", ["adam.yaml", "fast.yaml", "he_tanh.yaml"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_groups_of_any_size_come_to_the_same(run_cli, tmp_path, config, precision):
    trained = {}
    for size in (1, 50):
        cli = run_cli(
            "fit", "--config", config, "--test", "never", "--trainer.max_epochs", 2, "--trainer.log_every_n_steps", 20,
            "--trainer.steps_per_execution", size, "--trainer.accelerator", "cuda", "--trainer.precision", precision,
            "--trainer.default_root_dir", tmp_path / str(size), "--trainer.limit_train_batches", 45,
        )  # fmt: skip
        trained[size] = cli.model
    assert trained[1].engine.one_by_one is None
    assert torch.equal(trained[1].network.flat, trained[50].network.flat)
    ours, theirs = (trained[size].curves.history["train/loss"] for size in (1, 50))
    assert ours == theirs
