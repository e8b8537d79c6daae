"""Units on a kink raise no alarm on any processor, and hide no fault."""

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mlp_lightning.commands.check import oracle as check_oracle
from mlp_lightning.commands.check import sides as check_sides
from mlp_lightning.commands.check.command import check
from mlp_lightning.commands.check.gradients import allowance
from mlp_lightning.commands.check.rounding import rounding_errors
from mlp_lightning.commands.check.sides import on_our_sides, side_bound
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.native import passes as passes_file
from mlp_lightning.engines.torch import in_place as in_place_file
from mlp_lightning.engines.torch.in_place import IN_PLACE
from mlp_lightning.nn import ACTIVATIONS
from mlp_lightning.nn import mlp as mlp_file
from mlp_lightning.training.module import MLPModule

pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")

SLOPES = {"relu": 0.0, "leaky_relu": 0.01}
SIZES = (32, 24, 24, 4)


def module_on_the_kink(sizes=SIZES, **options):
    """Half of each row of the first layer's weights is minus the other half, which inputs with equal halves cancel."""
    module = MLPModule(**{"hidden": list(sizes[1:-1]), "lr": 1e-9, **options})
    module._build(sizes)
    weight = module.network.layers[0].weight
    half = sizes[0] // 2
    # In another order, so that no implementation cancels a pair at a time.
    weight[:, half:] = -weight[:, torch.randperm(half, generator=torch.Generator().manual_seed(1))]
    return module


def minibatches_on_the_kink(sizes=SIZES, samples=16, count=3):
    generator = torch.Generator().manual_seed(0)
    half = sizes[0] // 2
    order = torch.randperm(half, generator=torch.Generator().manual_seed(1))
    batches = []
    for _ in range(count):
        x = torch.rand(samples, half, generator=generator)
        x = torch.cat([x, x[:, order]], 1)
        y = torch.randint(sizes[-1], (samples,), generator=generator)
        batches.append(Batch(x, y, x[:0], y[:0], samples))
    return batches


def run(capsys, module, batches, precision="32-true"):
    """Whether all passed; how many units were taken on our side, table by table; the text."""
    passed = check(module, batches, precision=precision, steps_per_epoch=3, total_steps=6)
    text = capsys.readouterr().out
    return passed, [int(n) for n in re.findall(r"taken on ours: (\d+) of", text)], text


@pytest.fixture
def another_processor(monkeypatch):
    """Sums in another order, by torch, as another processor would have them."""

    def linear_forward(x, weight, bias, out=None):
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(2))
        return torch.addmm(bias, x[:, order], weight[:, order].t(), out=out)

    monkeypatch.setattr(passes_file, "native_linear", lambda: None)
    monkeypatch.setattr(passes_file, "has_chain", lambda **_: False)
    for file in (mlp_file, in_place_file):
        monkeypatch.setattr(file, "linear_forward", linear_forward)


OPTIONS = [
    {},
    {"optimizer": "sgd"},
    {"dropout": 0.3},
    {"vat": 0.7},
    {"vat": 0.7, "vat_iterations": 3},
    {"clip_norm": 0.1, "clip_value": 1e-3, "l1": 0.1, "max_norm": 0.5},
    {"loss": "mse"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("activation", SLOPES)
def test_units_on_the_kink_raise_no_alarm(activation, options, another_processor, capsys):
    module = module_on_the_kink(activation=activation, **options)
    passed, taken, text = run(capsys, module, minibatches_on_the_kink())
    assert passed, text
    # Of the two gradients' and the two updates' tables; about half of 384 units come out on the other side.
    assert len(taken) == 4
    assert all(count > 50 for count in taken)


def test_they_raise_no_alarm_on_this_processor(capsys):
    passed, taken, text = run(capsys, module_on_the_kink(), minibatches_on_the_kink())
    assert passed, text
    assert len(taken) == 4


def test_without_the_bound_they_would(another_processor, monkeypatch, capsys):
    monkeypatch.setattr(check_sides, "side_bound", lambda number, *rest: torch.full_like(number, -1.0))
    passed, taken, text = run(capsys, module_on_the_kink(), minibatches_on_the_kink())
    assert not passed
    assert set(taken) == {0}
    closing = text.splitlines()[-1]
    assert "layers.0.weight (gradients, float32)" in closing
    assert "gradient of layers.0.weight, steps 1–6 (updates, float64)" in closing
    # What does not depend on a slope is right.
    assert "layers.2" not in closing


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - set(SLOPES)))
def test_others_have_no_kink_to_speak_of(activation, another_processor, capsys):
    passed, taken, text = run(capsys, module_on_the_kink(activation=activation), minibatches_on_the_kink())
    assert passed, text
    assert not taken


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_norms_of_equal_samples_or_units(norm, activation, another_processor, capsys):
    """Every deviation from the mean is rounding, which the norm makes 300 times as large."""
    module = MLPModule(hidden=[24, 24], lr=1e-9, activation=activation, norm=norm)
    module._build(SIZES)
    x, y = torch.rand(1, 32, generator=torch.Generator().manual_seed(0)).repeat(16, 1), torch.arange(16) % 4
    if norm == "layer":
        layer = module.network.layers[0]
        layer.weight[:] = layer.weight[0]
    passed, _, text = run(capsys, module, [Batch(x, y, x[:0], y[:0], 16)])
    assert passed, text


def shifted(name, shift):
    """An activation whose kink is elsewhere, and only on the way back."""
    slope, right = SLOPES[name], ACTIVATIONS[name]
    return right._replace(
        forward=lambda z: right.forward(z.clone()),
        backward=lambda da, z, a: da * torch.where(a > shift, 1.0, slope).to(da),
    )


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("activation", SLOPES)
def test_a_kink_in_the_wrong_place_is_found(activation, precision, monkeypatch, capsys):
    module = MLPModule(hidden=[64, 64], lr=1e-3, activation=activation)
    module._build((32, 64, 64, 4))
    broken = shifted(activation, 1e-2)
    for table in (ACTIVATIONS, IN_PLACE):
        monkeypatch.setitem(table, activation, broken)
    monkeypatch.setattr(passes_file, "native_linear", lambda: None)
    monkeypatch.setattr(passes_file, "has_chain", lambda **_: False)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(32, 32, generator=generator), torch.arange(32) % 4
    passed, _, text = run(capsys, module, [Batch(x, y, x[:0], y[:0], 32)], precision)
    assert not passed
    assert "layers.0.weight (gradients, float64)" in text.splitlines()[-1]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_fault_beside_units_on_the_kink_is_found(options, another_processor, monkeypatch, capsys):
    """Rows are as strict as without such units: a factor of 1.001 in float32 is named."""
    right = mlp_file.linear_backward_input

    def broken(dz, weight, out=None):
        result = right(dz, weight, out)
        return result.mul_(1.001) if result.dtype == torch.float32 else result

    for file in (mlp_file, in_place_file):
        monkeypatch.setattr(file, "linear_backward_input", broken)
    passed, taken, text = run(capsys, module_on_the_kink(**options), minibatches_on_the_kink())
    assert not passed
    assert all(taken)
    failed = re.findall(r"([a-z0-9.]+) \(gradients, float32\)", text.splitlines()[-1])
    # Not layers.1.weight, whose gradient is nothing but rounding: its inputs are 0 but for it.
    assert set(failed) == {"layers.1.bias", "layers.0.weight", "layers.0.bias", "dx"}


# --- on_our_sides and its bound -------------------------------------------------------------------------------------


def oracle_of(parameters, x, y, activation):
    options = {"activation": activation, "norm": "none", "loss": "cross_entropy", "reduction": "mean"}
    options |= {"class_weights": None, "label_smoothing": 0.0}
    return lambda dtype, sides: check_oracle.gradients(parameters, x, y, options, dtype, (), sides)


def parameters_of(widths, generator):
    parameters = {}
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        parameters[f"layers.{k}.weight"] = torch.randn(fan_out, fan_in, generator=generator) / fan_in**0.5
        parameters[f"layers.{k}.bias"] = torch.randn(fan_out, generator=generator)
    return parameters


def autograd_of_a_model(parameters, x, y, slope, dtype, order):
    """Another implementation: plain autograd in a dtype, sums in another order; its sides and gradients."""
    leaves = {name: value.to(dtype).requires_grad_() for name, value in parameters.items()}
    a, sides, depth = x.to(dtype), [], len(parameters) // 2
    for k in range(depth):
        weight = leaves[f"layers.{k}.weight"]
        columns = order[k]
        a = a[:, columns] @ weight[:, columns].t() + leaves[f"layers.{k}.bias"]
        if k < depth - 1:
            sides.append(a > 0)
            a = F.leaky_relu(a, slope)
    F.cross_entropy(a, y).backward()
    return sides, {name: leaf.grad for name, leaf in leaves.items()}


@settings(deadline=None, max_examples=25)
@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    samples=st.integers(1, 12),
    activation=st.sampled_from(sorted(SLOPES)),
    spread=st.sampled_from([0.0, 1e-9, 1e-7, 1e-5, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_any_right_implementation_passes(widths, samples, activation, spread, seed):
    """Biases are such that the first sample's units lie at 0 but for the rounding of float32, or a little beside."""
    generator = torch.Generator().manual_seed(seed)
    widths = [*widths, 3]
    parameters = parameters_of(widths, generator)
    x, y = torch.randn(samples, widths[0], generator=generator), torch.randint(3, (samples,), generator=generator)
    first = x[:1].double()
    for k in range(len(widths) - 2):
        z = first @ parameters[f"layers.{k}.weight"].double().t()
        parameters[f"layers.{k}.bias"] = (spread * torch.randn(z.shape[1], generator=generator) - z[0]).float()
        first = F.leaky_relu(z + parameters[f"layers.{k}.bias"].double(), SLOPES[activation])
    order = [torch.randperm(width, generator=generator) for width in widths]
    sides, gradients = autograd_of_a_model(parameters, x, y, SLOPES[activation], torch.float32, order)
    found = on_our_sides(oracle_of(parameters, x, y, activation), sides, activation, torch.float32)
    errors = rounding_errors(found.exact.trace)
    assert all(torch.equal(a, b) for a, b in zip(sides, found.exact.sides, strict=True)) or found.followed
    for name, gradient in gradients.items():
        expected = found.exact.values[name]
        allowed = allowance(expected, found.rough.values[name], errors[name], torch.float32)
        assert (gradient.double() - expected).abs().max() <= allowed, name


def one_unit(z, y=0):
    """One sample, one hidden unit that reads z = 1·1 + b, two classes."""
    parameters = {
        "layers.0.weight": torch.ones(1, 1),
        "layers.0.bias": torch.tensor([z - 1], dtype=torch.float64),
        "layers.1.weight": torch.tensor([[1.0], [-1.0]]),
        "layers.1.bias": torch.zeros(2),
    }
    return oracle_of(parameters, torch.ones(1, 1), torch.tensor([y]), "relu")


@pytest.mark.parametrize("z", [1e-8, -1e-8, 3e-7, -3e-7])
@pytest.mark.parametrize("side", [True, False])
def test_a_unit_that_rounding_may_move_is_taken_on_our_side(z, side):
    found = on_our_sides(one_unit(z), [torch.tensor([[side]])], "relu", torch.float32)
    assert found.followed == int(side != (z > 0))
    # d loss / d b = Σ_c (softmax_c − 1[c = 0]) w_c = −½ − ½, where the unit is above 0.
    for gradients in (found.exact, found.rough):
        assert float(gradients.values["layers.0.bias"]) == pytest.approx(-1.0 if side else 0.0, abs=1e-5)


@pytest.mark.parametrize(("z", "dtype"), [(1e-3, torch.float32), (-1e-3, torch.float32), (1e-8, torch.float64)])
def test_a_unit_beyond_rounding_keeps_the_oracles_side(z, dtype):
    found = on_our_sides(one_unit(z), [torch.tensor([[z < 0]])], "relu", dtype)
    assert found.followed == 0
    assert float(found.exact.values["layers.0.bias"]) == pytest.approx(-1.0 if z > 0 else 0.0, abs=2e-3)


def test_numbers_that_are_not_finite_are_on_no_side():
    nan = float("nan")
    parameters = {**parameters_of([2, 3, 2], torch.Generator().manual_seed(0))}
    parameters["layers.0.bias"][0] = nan
    oracle = oracle_of(parameters, torch.ones(1, 2), torch.tensor([0]), "relu")
    found = on_our_sides(oracle, [torch.ones(1, 3, dtype=torch.bool)], "relu", torch.float32)
    assert found.exact.values["layers.0.bias"].isnan().any()


@settings(deadline=None)
@given(
    number=st.floats(-1e3, 1e3),
    off=st.floats(0, 1e-3),
    error=st.floats(1e-6, 1e6),
)
def test_bound(number, off, error):
    """Ten roundings at least, ten times what was measured at least, and in float64 as much finer as eps is."""
    numbers, errors = (torch.tensor([[value]], dtype=torch.float64) for value in (number, error))
    rounded = (numbers + off).float()
    bound = float(side_bound(numbers, rounded, errors, torch.float32))
    measured = abs(float(rounded) - number)
    assert bound >= 10 * torch.finfo(torch.float32).eps * error
    assert bound >= 9.99 * measured
    assert bound <= 10.01 * (torch.finfo(torch.float32).eps * error + measured)
    fine = float(side_bound(numbers, rounded, errors, torch.float64))
    assert fine == pytest.approx(bound * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("rounded", [float("inf"), float("nan")])
def test_bound_is_not_widened_by_what_is_not_finite(rounded):
    number = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    bound = side_bound(number, torch.tensor([[rounded, 2.0]]), torch.ones_like(number), torch.float32)
    assert torch.equal(bound, torch.full_like(number, 10 * torch.finfo(torch.float32).eps))
