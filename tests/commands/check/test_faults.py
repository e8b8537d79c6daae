"""A fault of one part in a thousand in a gradient or an update is found, by the recipe of every shipped config."""

from pathlib import Path

import pytest
import torch
import yaml

from mlp_lightning.commands.check.updates import Training, check_updates
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.engine import Engine
from mlp_lightning.optim import SGD, Adam, AdamNorm, AdamW
from mlp_lightning.optim.moments import AdaptiveMoments
from mlp_lightning.training.module import MLPModule

pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")

CONFIGS = sorted(Path(__file__).parents[3].glob("configs/*.yaml"))
RULES = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "adam_norm": AdamNorm}
FACTOR = 1.001
# More than the longest warm-up takes.
STEPS = 6


def recipe(path, divisor=1):
    """The config's module, its layers narrower by a divisor, and three minibatches of MNIST's shape."""
    options = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
    options["hidden"] = [width // divisor for width in options["hidden"]]
    module = MLPModule(**options)
    module._build((784, *options["hidden"], 10))
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(3):
        x = torch.rand(64, 784, generator=generator) * (torch.rand(64, 784, generator=generator) < 0.2)
        batches.append(Batch(x, torch.arange(64) % 10, x[:0], torch.arange(0), 64))
    return module, batches


def failed(path, dtype, divisor=1):
    module, batches = recipe(path, divisor)
    precision = "64-true" if dtype == torch.float64 else "32-true"
    table, *_ = check_updates(Training(module, batches, 1, STEPS), precision)
    return {row.name for row in table.rows if not row.passed}


def spoil_gradient(monkeypatch, spoil):
    """After each step, so that whatever computes the gradient has computed it wrongly."""
    right = Engine.__call__

    def broken(self, *args, **options):
        result = right(self, *args, **options)
        spoil(self.network)
        return result

    monkeypatch.setattr(Engine, "__call__", broken)


def largest_row(layer):
    """The row with the largest entry, for dead units have rows of zeros."""
    return int(layer.dweight.abs().amax(1).argmax())


GRADIENT_FAULTS = {
    "first weight": (lambda net: net.layers[0].dweight.mul_(FACTOR), "gradient of layers.0.weight"),
    "last weight": (lambda net: net.layers[-1].dweight.mul_(FACTOR), "gradient of layers.{last}.weight"),
    "hidden bias": (lambda net: net.layers[1].dbias.mul_(FACTOR), "gradient of layers.1.bias"),
    "one row": (
        lambda net: net.layers[1].dweight[largest_row(net.layers[1])].mul_(FACTOR),
        "gradient of layers.1.weight",
    ),
    "constant": (
        lambda net: net.layers[0].dbias.add_(1e-3 * net.layers[0].dbias.abs().max()),
        "gradient of layers.0.bias",
    ),
}


def off(option, place=None):
    """The rule with an option, or one of its two numbers, a thousandth off."""

    def spoiled(group):
        value = group[option]
        wrong = (
            value * FACTOR if place is None else tuple(x * (FACTOR if k == place else 1) for k, x in enumerate(value))
        )
        return {**group, option: wrong}

    def plant(monkeypatch, rule):
        update, within_product = rule.update, getattr(rule, "within_product", None)

        def broken(self, parameter, grad, state, group):
            update(self, parameter, grad, state, spoiled(group))

        monkeypatch.setattr(rule, "update", broken)
        if within_product is not None:
            monkeypatch.setattr(rule, "within_product", staticmethod(lambda group: within_product(spoiled(group))))

    return plant


def bias_correction_off(monkeypatch, rule):
    right = AdaptiveMoments.rate_and_eps

    def broken(t, group):
        rate, eps = right(t, group)
        return rate * FACTOR, eps

    monkeypatch.setattr(AdaptiveMoments, "rate_and_eps", staticmethod(broken))


UPDATE_FAULTS = {
    "lr": (off("lr"), RULES),
    "weight_decay": (off("weight_decay"), {"adamw"}),
    "beta1": (off("betas", 0), {"adam", "adamw", "adam_norm"}),
    "beta2": (off("betas", 1), {"adam", "adamw", "adam_norm"}),
    "eps": (off("eps"), {"adam", "adamw"}),
    "bias correction": (bias_correction_off, {"adam", "adamw"}),
}


def check_fault_of_gradients(path, fault, dtype, divisor, monkeypatch):
    spoil, row = GRADIENT_FAULTS[fault]
    spoil_gradient(monkeypatch, spoil)
    last = len(recipe(path, divisor)[0].network.layers) - 1
    assert f"{row.format(last=last)}, steps 1–{STEPS}" in failed(path, dtype, divisor)


def check_fault_of_updates(path, fault, dtype, divisor, monkeypatch):
    plant, rules = UPDATE_FAULTS[fault]
    name = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["optimizer"]
    if name not in rules:
        return
    plant(monkeypatch, RULES[name])
    found = failed(path, dtype, divisor)
    assert any(row.startswith("layers.") for row in found), found
    assert not any(row.startswith("gradient") for row in found), found


def narrow_configs():
    """One of each rule, with relu, gelu, dropout and the adversary among them."""
    return [path for path in CONFIGS if path.stem in ("adam_norm", "fast", "plain", "record", "relu", "table")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", narrow_configs(), ids=lambda path: path.stem)
def test_faults_of_gradients(path, dtype, monkeypatch):
    assert not failed(path, dtype, 16)
    for fault in GRADIENT_FAULTS:
        with monkeypatch.context() as patch:
            check_fault_of_gradients(path, fault, dtype, 16, patch)


@pytest.mark.parametrize("path", narrow_configs(), ids=lambda path: path.stem)
def test_faults_of_updates(path, monkeypatch):
    for fault in UPDATE_FAULTS:
        with monkeypatch.context() as patch:
            check_fault_of_updates(path, fault, torch.float64, 16, patch)


@pytest.mark.parametrize("fault", ["lr", "beta1", "bias correction"])
@pytest.mark.parametrize("path", narrow_configs(), ids=lambda path: path.stem)
def test_faults_of_updates_in_float32_alone(path, fault, monkeypatch):
    """Even where a step is smaller than the rounding of the largest weights: others are near 0."""
    check_fault_of_updates(path, fault, torch.float32, 16, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("fault", GRADIENT_FAULTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_faults_of_gradients_in_full_width(path, dtype, fault, monkeypatch):
    check_fault_of_gradients(path, fault, dtype, 1, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("fault", UPDATE_FAULTS)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_faults_of_updates_in_full_width(path, fault, monkeypatch):
    check_fault_of_updates(path, fault, torch.float64, 1, monkeypatch)
