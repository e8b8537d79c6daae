"""The kernels of a step on a GPU, run by Triton's interpreter on the processor, against autograd and torch.optim."""

import importlib.util
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fixtures.steps import engine_of
from torch.nn import functional as F

from mlp_lightning.commands.check.command import check
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.engines.triton.engine import TritonEngine
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.optim import SGD, AdamW
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.quiet import quiet_lightning

# Triton reads TRITON_INTERPRET when it is imported: these tests run in a process of their own.
interpreted = pytest.mark.interpreter
# The interpreter computes with NumPy what is masked out too.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
SIZES = (20, 33, 18, 10)
LR = 0.02
OPTIMIZERS = {
    "sgd": lambda flat: torch.optim.SGD([flat], LR),
    "momentum": lambda flat: torch.optim.SGD([flat], LR, momentum=0.9),
    "adam": lambda flat: torch.optim.Adam([flat], LR),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU itself")
@pytest.mark.parametrize("tests", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_in_a_process_of_its_own(tests):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    arguments = ["-m", f"interpreter and {tests}", "-n", "0", "-p", "no:cacheprovider", __file__]
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.fixture(scope="module")
def cuda_step():
    from mlp_lightning.engines.triton import step as cuda_step

    return cuda_step


def numbers_of(rule, t):
    if rule == "adam":
        c1, c2 = 1 - 0.9**t, math.sqrt(1 - 0.999**t)
        return [LR * c2 / c1, 1, 1, 0.1, 0.999, 0.001, 1e-8 * c2]
    return [-LR, 1, 1] if rule == "sgd" else [0, 1, 1, 0.9 if t > 1 else 0, 1, -LR]


def forward(flat, sizes, activation, x):
    weights = flat.split([a * b for a, b in itertools.pairwise(sizes)] + list(sizes[1:]))
    n = len(sizes) - 1
    for k, (weight, bias) in enumerate(zip(weights[:n], weights[n:], strict=True)):
        x = x @ weight.view(sizes[k + 1], sizes[k]).t() + bias
        x = getattr(torch, activation)(x) if k < n - 1 else x
    return x


@interpreted
@pytest.mark.parametrize(
    ("sizes", "activation", "rule", "rows", "smoothing", "apart"),
    [
        (SIZES, "relu", "sgd", 24, 0.0, False),
        (SIZES, "relu", "sgd", 24, 0.0, True),
        (SIZES, "tanh", "momentum", 24, 0.1, False),
        (SIZES, "sigmoid", "adam", 7, 0.0, False),
        (SIZES, "sigmoid", "adam", 7, 0.0, True),
        ((19, 33, 10), "relu", "adam", 40, 0.0, False),
        ((20, 100, 3), "relu", "adam", 40, 0.0, False),
        ((5, 2), "relu", "sgd", 1, 0.3, False),
    ],
)
def test_steps_are_those_of_autograd_and_torch_optim(
    cuda_step, monkeypatch, sizes, activation, rule, rows, smoothing, apart
):
    if apart:
        monkeypatch.setattr(cuda_step, "MANY", 1)
    generator = torch.Generator().manual_seed(0)
    network = MLP(sizes, activation, "he_normal", generator=generator)
    flat = network.flat.detach()
    flat[network.weight_numel :].normal_(0, 0.1, generator=generator)
    theta = flat.double().requires_grad_()
    optimizer = OPTIMIZERS[rule](theta)
    moments = [torch.zeros_like(flat), torch.zeros_like(flat)]
    step = cuda_step.CudaStep(
        network, [], moments, rows, rule=rule, scale=1 / rows, smoothing=smoothing, precision="tf32x3"
    )
    for t in (1, 2):
        x = cuda_step.padded(rows, sizes[0], torch.float32, flat.device)
        x[:, : sizes[0]].uniform_(generator=generator)
        y = torch.randint(sizes[-1], (rows,), generator=generator)
        of_rule = torch.tensor([float(number) for number in numbers_of(rule, t)])
        numbers = cuda_step.Numbers(of_rule, torch.zeros(step.n_losses), torch.zeros(step.n_totals))
        step.launch(x, y, numbers, keeps=True, beside=None)

        optimizer.zero_grad()
        loss = F.cross_entropy(
            forward(theta, sizes, activation, x[:, : sizes[0]].double()), y, label_smoothing=smoothing
        )
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(numbers.losses.double().sum() / rows, loss.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(network.flat_grad.double(), theta.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(flat.double(), theta.detach(), rtol=1e-5, atol=1e-5)
        biases = network.flat_grad[network.weight_numel :].sum()
        torch.testing.assert_close(numbers.totals.sum(), biases, rtol=1e-4, atol=1e-5)


@interpreted
def test_numbers_that_are_not_finite_are_told(cuda_step):
    network = MLP(SIZES, "relu", "he_normal", generator=torch.Generator().manual_seed(0))
    step = cuda_step.CudaStep(network, [], [], 4, rule="sgd", scale=0.25, smoothing=0.0, precision="tf32x3")
    x = cuda_step.padded(4, SIZES[0], torch.float32, network.flat.device)
    x[2, 3] = float("nan")
    numbers = cuda_step.Numbers(torch.tensor([-LR, 1, 1]), torch.zeros(step.n_losses), torch.zeros(step.n_totals))
    step.launch(x, torch.zeros(4).long(), numbers, keeps=True, beside=None)
    assert not numbers.losses.isfinite().all()
    assert not numbers.totals.isfinite().all()


@interpreted
def test_logits_as_far_apart_as_numbers_can_be(cuda_step):
    """The loss is the largest number then, not infinity, and dlogits are finite."""
    network = MLP((1, 2), "relu", "zeros")
    network.flat.detach().copy_(torch.tensor([3e38, -3e38, 0.0, 0.0]))
    step = cuda_step.CudaStep(network, [], [], 1, rule="sgd", scale=1.0, smoothing=0.0, precision="tf32x3")
    x = cuda_step.padded(1, 1, torch.float32, network.flat.device)
    x[0, 0] = 1
    numbers = cuda_step.Numbers(torch.tensor([0.0, 1, 1]), torch.zeros(step.n_losses), torch.zeros(step.n_totals))
    step.launch(x, torch.ones(1).long(), numbers, keeps=True, beside=None)
    assert numbers.losses.item() == torch.finfo(torch.float32).max
    torch.testing.assert_close(network.flat_grad, torch.tensor([1.0, -1, 1, -1]))


@pytest.fixture
def as_on_gpu(monkeypatch, cuda_step):
    """Gives bare steps what a GPU would be given; a replay launches what was recorded once more."""
    from mlp_lightning.engines.triton import steps as triton_steps
    from mlp_lightning.engines.triton.steps import Recording

    def record(self, n, keeps):
        self._of_rule[0] = torch.tensor(self._idle)
        self._launch(1, keeps)
        return SimpleNamespace(replay=lambda: self._launch(n, keeps))

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Recording, "_record", record)
    monkeypatch.setattr(triton_steps, "LENGTHS", (2, 1))

    def refuses(cls, recipe):
        return "not float32" if recipe.network.flat.dtype != torch.float32 else recipe.is_not_plain

    monkeypatch.setattr(TritonEngine, "refuses", classmethod(refuses))


@pytest.fixture
def make(as_on_gpu):
    def make(make_rule, *, reduction="mean"):
        network = MLP((5, 7, 3), "relu", "he_normal", generator=torch.Generator().manual_seed(0))
        return engine_of(network, SoftmaxCrossEntropy("sum"), make_rule(network.flat), reduction=reduction)

    return make


RULES = {
    "sgd, decay": (lambda p: SGD([p], LR, weight_decay=0.1), lambda p: torch.optim.SGD([p], LR, weight_decay=0.1)),
    "nesterov": (
        lambda p: SGD([p], LR, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD([p], LR, momentum=0.9, nesterov=True),
    ),
    "damped": (
        lambda p: SGD([p], LR, momentum=0.9, dampening=0.5),
        lambda p: torch.optim.SGD([p], LR, momentum=0.9, dampening=0.5),
    ),
    "adamw": (lambda p: AdamW([p], LR, weight_decay=0.1), lambda p: torch.optim.AdamW([p], LR, weight_decay=0.1)),
}


@interpreted
@pytest.mark.parametrize(
    ("rule", "reduction"), [("sgd, decay", "sum"), ("nesterov", "mean"), ("damped", "mean"), ("adamw", "mean")]
)
def test_groups_come_to_the_bits_of_as_many_calls(make, rule, reduction):
    """And those to what autograd and torch.optim come to."""
    make_rule, make_optimizer = RULES[rule]
    one_by_one, together = (make(make_rule, reduction=reduction) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(4 * 6, 5, generator=generator), torch.randint(3, (4 * 6,), generator=generator)
    batches = [Batch(a, b, x[:0], y[:0], 6) for a, b in zip(x.split(6), y.split(6), strict=True)]
    rates = [LR / (1 + k) for k in range(4)]
    theta = one_by_one.network.flat.detach().double().requires_grad_()
    optimizer = make_optimizer(theta)
    for batch, lr in zip(batches, rates, strict=True):
        optimizer.zero_grad()
        F.cross_entropy(forward(theta, (5, 7, 3), "relu", batch.x.double()), batch.y, reduction=reduction).backward()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    together.prepare({6})
    losses = [one_by_one(batch, lr, step=k)[0] for k, (batch, lr) in enumerate(zip(batches, rates, strict=True))]
    torch.testing.assert_close(one_by_one.network.flat_grad.double(), theta.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(one_by_one.network.flat.double(), theta.detach(), rtol=1e-4, atol=1e-4)
    found = [together(batches[0], rates[0])[0]]
    assert together.one_by_one is None
    ((count, loss, size, _),) = together.steps(batches[1:], rates[1:], 1)
    assert (size, count) == (3 * 6.0, 3)
    assert torch.equal(found[0] + loss, sum(losses))
    assert torch.equal(together.network.flat, one_by_one.network.flat)
    assert together.samples_seen == one_by_one.samples_seen == 4 * 6
    ours, theirs = (step.rule.state_dict()["state"].get(0, {}) for step in (together, one_by_one))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[name]))


@interpreted
def test_minibatches_of_another_kind_are_made_as_on_any_device(make):
    step = make(lambda p: SGD([p], LR))
    x, y = torch.rand(6, 5), torch.randint(3, (6,))
    mixed_up = Batch(x, y, x[:0], y[:0], 6, partner_y=y, share=0.5)
    assert list(step.steps([mixed_up], [LR], 0)) == []
    before = step.network.flat.clone()
    step(mixed_up, LR)
    assert not torch.equal(step.network.flat, before)


@interpreted
def test_a_step_that_is_not_finite_is_found_when_looked_for(make):
    step = make(lambda p: SGD([p], LR))
    x, y = torch.rand(6, 5), torch.randint(3, (6,))
    batches = [Batch(x.clone(), y, x[:0], y[:0], 6) for _ in range(3)]
    batches[1].x[5, 2] = float("nan")
    list(step.steps(batches, [LR] * 3, 40))
    with pytest.raises(NotFinite, match=r"^step 42 is not finite"):
        step.finiteness.look(43, LR)


@interpreted
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_trainings_come_to_the_same_in_groups_of_any_size(as_on_gpu, fit, optimizer):
    options = {"optimizer": optimizer, "lr": 0.05}, {}
    one, many = (fit(*options, max_epochs=2, log_every_n_steps=4, steps_per_execution=n) for n in (1, 50))
    assert len(one.start.batches) == one.trainer.global_step > len(many.start.batches)
    assert many.module.engine.name == "triton"
    assert torch.equal(one.module.network.flat, many.module.network.flat)
    assert torch.equal(one.module.network.flat_grad, many.module.network.flat_grad)
    assert one.module.curves.history == many.module.curves.history
    assert one.module.samples_seen == many.module.samples_seen
    assert one.trainer.global_step == many.trainer.global_step


def checked(capsys, optimizer):
    quiet_lightning()
    module = MLPModule(hidden=[7], optimizer=optimizer, lr=0.01)
    module._build((5, 7, 3))
    x, y = torch.rand(12, 5, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    batches = [Batch(x[k : k + 6], y[k : k + 6], x[:0], y[:0], 6) for k in (0, 6)]
    passed = check(module, batches, precision="32-true", steps_per_epoch=2, total_steps=4, engine="triton")
    return passed, capsys.readouterr().out.splitlines()[-1]


@interpreted
@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_check_proves_the_kernels(as_on_gpu, capsys, optimizer):
    assert checked(capsys, optimizer)[0]


@interpreted
@pytest.mark.parametrize(
    ("right", "wrong", "optimizer", "found"),
    [
        pytest.param(
            "(e / normalizer[:, None] - q) * scale",
            "(e / normalizer[:, None] - 1.01 * q) * scale",
            "sgd",
            "gradient of layers.0.weight, steps 1–4 (updates, float32, engine triton)",
            id="dlogits",
        ),
        pytest.param(
            "tl.sqrt_rn(second)",
            "1.01 * tl.sqrt_rn(second)",
            "adam",
            "layers.0.weight, step 1 (updates, float32, engine triton)",
            id="denominator of adam",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fault_planted_in_a_kernel_is_found(
    as_on_gpu, cuda_step, monkeypatch, tmp_path, capsys, right, wrong, optimizer, found
):
    text = Path(cuda_step.kernels.__file__).read_text()
    assert text.count(right) == 1
    planted = tmp_path / "planted_kernels.py"
    planted.write_text(text.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("planted_kernels", planted)
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    monkeypatch.setattr(cuda_step, "kernels", kernels)
    passed, closing = checked(capsys, optimizer)
    assert not passed
    assert found in closing
