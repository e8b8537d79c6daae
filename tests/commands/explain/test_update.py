import pytest
import torch
from fixtures.counterparts import TORCH_RULES

from mlp_lightning.commands.explain.command import walk
from mlp_lightning.training.module import MLPModule

TOLERANCE = 1e-11
SIZES = (6, 7, 5, 3)

LR, FACTOR = 0.02, 0.25


@pytest.fixture
def float64_by_default():
    """torch's NAdam keeps its product of momenta in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def make_module(**options) -> MLPModule:
    module = MLPModule(hidden=list(SIZES[1:-1]), init="he_notebook", activation="tanh", lr=LR, **options)
    module._build(SIZES)
    module.network.double()
    return module


def make_batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, SIZES[0], generator=generator, dtype=torch.float64)
    return x, torch.randint(SIZES[-1], (8,), generator=generator)


def updates(module, **options):
    return [step for step in walk(module, *make_batch(), **options) if step.phase == "update"]


def named(steps):
    return {step.name: step for step in steps}


def torch_step(module, rule, options, clip=lambda parameters: None):
    """Each parameter's change in one step of torch.optim, along autograd's gradient; and the optimizer."""
    x, y = make_batch()
    sequence = torch.nn.Sequential()
    for k, layer in enumerate(module.network.layers):
        linear = torch.nn.Linear(*layer.weight.t().shape, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(layer.weight)
            linear.bias.copy_(layer.bias)
        sequence.append(linear)
        if k < len(SIZES) - 2:
            sequence.append(torch.nn.Tanh())
    torch.nn.functional.cross_entropy(sequence(x), y).backward()
    parameters = list(sequence.parameters())
    clip(parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = rule(parameters, lr=LR * FACTOR, **options)
    optimizer.step()
    changes = [after.detach() - old for after, old in zip(parameters, before, strict=True)]
    return changes, optimizer


def check_changes(steps, changes):
    steps = named(steps)
    for k in range(len(SIZES) - 1):
        for symbol, change in zip("Wb", changes[2 * k : 2 * k + 2], strict=True):
            name = f"Δ{symbol}{'₁₂₃'[k]}"
            torch.testing.assert_close(
                steps[name].value, change, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
            )


def flat(tensors):
    """All weights, then all biases, as the flat parameter has them."""
    return torch.cat([t.flatten() for t in tensors[::2]] + [t.flatten() for t in tensors[1::2]])


@pytest.mark.parametrize(("options", "rule", "torch_options"), TORCH_RULES.values(), ids=TORCH_RULES)
def test_the_step_is_torchs(float64_by_default, options, rule, torch_options):
    module = make_module(**options)
    steps = updates(module, lr_factor=FACTOR)
    changes, optimizer = torch_step(module, rule, torch_options)
    check_changes(steps, changes)
    torch.testing.assert_close(named(steps)["Δθ"].value, flat(changes), rtol=TOLERANCE, atol=TOLERANCE)

    ours = {"m": "exp_avg", "v": "exp_avg_sq", "v max": "max_exp_avg_sq", "b": "momentum_buffer"}
    if rule is torch.optim.RMSprop:
        ours |= {"v": "square_avg", "a": "grad_avg"}
    states = list(optimizer.state.values())
    for name, torch_name in ours.items():
        recorded = named(steps).get(name)
        theirs = [state[torch_name] for state in states if state.get(torch_name) is not None]
        assert (recorded is not None) == bool(theirs), name
        if recorded is not None:
            torch.testing.assert_close(recorded.value, flat(theirs), rtol=TOLERANCE, atol=TOLERANCE)


def test_weight_decay_is_recorded_where_it_enters():
    module = make_module(optimizer="sgd", weight_decay=0.1)
    changes, _ = torch_step(module, torch.optim.SGD, {"weight_decay": 0.1})
    decayed = [step for step in updates(module, lr_factor=FACTOR) if step.name == "g"][-1]
    assert decayed.numbers == "g ← g + 0.1 · θ"
    torch.testing.assert_close(decayed.value, flat(changes) / -(LR * FACTOR), rtol=1e-9, atol=1e-9)

    module = make_module(optimizer="adamw", weight_decay=0.1)
    shrunk = next(step for step in updates(module, lr_factor=FACTOR) if step.name == "θ")
    # With a zero gradient AdamW does nothing but shrink.
    theta = torch.nn.Parameter(module.network.flat.clone())
    theta.grad = torch.zeros_like(theta)
    torch.optim.AdamW([theta], lr=LR * FACTOR, weight_decay=0.1).step()
    torch.testing.assert_close(shrunk.value, theta.detach(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("optimizer", "rule"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_a_decay_that_spares_the_biases_is_torchs(optimizer, rule):
    module = make_module(optimizer=optimizer, weight_decay=0.1, decay_biases=False)

    def grouped(parameters, lr):
        weights, biases = parameters[::2], parameters[1::2]
        return rule([{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}], lr=lr)

    check_changes(updates(module, lr_factor=FACTOR), torch_step(module, grouped, {})[0])


CLIPS = {
    "norm": ({"clip_norm": 0.1}, lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, 0.1)),
    "norm, long enough": ({"clip_norm": 1e3}, lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, 1e3)),
    "value": ({"clip_value": 0.01}, lambda parameters: torch.nn.utils.clip_grad_value_(parameters, 0.01)),
}


@pytest.mark.parametrize(("options", "clip"), CLIPS.values(), ids=CLIPS)
def test_clipping_is_torchs(options, clip):
    module = make_module(optimizer="sgd", **options)
    steps = updates(module, lr_factor=FACTOR)
    check_changes(steps, torch_step(module, torch.optim.SGD, {}, clip)[0])
    whole, clipped = [step for step in steps if step.name == "g"]
    assert "c = " in clipped.numbers
    # The gradient before clipping stays on record.
    unclipped = named(updates(make_module(optimizer="sgd")))["g"].value
    assert torch.equal(whole.value, unclipped)


def test_clipping_tells_its_numbers():
    steps = updates(make_module(optimizer="sgd", clip_norm=0.5, clip_value=0.01))
    whole, by_norm, by_value = [step for step in steps if step.name == "g"]
    assert by_norm.numbers == f"c = 0.5:  ‖g‖ = {whole.value.norm():.4g} → 0.5"
    beyond = int((by_norm.value.abs() > 0.01).sum())
    assert by_value.numbers == f"c = 0.01:  {beyond} of {whole.value.numel()} entries were beyond"
    assert float(by_value.value.abs().max()) == 0.01


def test_a_gradient_recorded_backward_is_not_the_clipped_one():
    steps = walk(make_module(clip_norm=1e-3), *make_batch())
    plain = walk(make_module(), *make_batch())
    for one, other in zip(steps, plain, strict=False):
        if one.phase == "backward":
            assert torch.equal(one.value, other.value)


NUMBERS = {
    "sgd": ({"optimizer": "sgd"}, ["θ ← θ − 0.005 · g"]),
    "nesterov": (
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        ["b = g;  later b ← 0.9 · b + (1 − 0) · g", "θ ← θ − 0.005 · (g + 0.9 · b)"],
    ),
    "adam": (
        {"optimizer": "adam"},
        [
            "m ← 0.9 · m + (1 − 0.9) · g,  m = 0 at first",
            "v ← 0.999 · v + (1 − 0.999) · g²,  v = 0 at first",
            "t = 1:  θ ← θ − 0.005 · m / (1 − 0.9) / (√(v / (1 − 0.999)) + 1e−08)",
        ],
    ),
    "adamw": ({"optimizer": "adamw", "weight_decay": 0.5}, ["θ ← (1 − 0.005 · 0.5) θ"]),
    "adamw, weights": (
        {"optimizer": "adamw", "weight_decay": 0.5, "decay_biases": False},
        ["θ ← (1 − 0.005 · 0.5) θ,  in the weights alone"],
    ),
    "rmsprop, weights": (
        {"optimizer": "rmsprop", "weight_decay": 0.5, "decay_biases": False},
        ["g ← g + 0.5 · θ,  in the weights alone"],
    ),
    "centered": (
        {"optimizer": "rmsprop", "centered": True},
        ["a ← 0.99 · a + (1 − 0.99) · g,  a = 0 at first", "θ ← θ − 0.005 · g / (√(v − a²) + 1e−08)"],
    ),
}


@pytest.mark.parametrize(("options", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_filled_into_the_rule(options, expected):
    steps = updates(make_module(**options), lr_factor=FACTOR)
    numbers = [step.numbers for step in steps]
    assert [number for number in numbers if number in expected] == expected
    assert named(steps)["η"].numbers == "0.02 · 0.25 = 0.005"


def test_nadams_numbers_are_its_first_step():
    """What is printed, computed with: θ's change along one entry."""
    steps = updates(make_module(optimizer="nadam"), lr_factor=FACTOR)
    text = next(step.numbers for step in steps if step.name == "Δθ")
    quotient = text.split("θ ← θ − ")[1].replace("−", "-").replace("·", "*").replace("√", "sqrt")
    m, v, g = (named(steps)[name].value[0] for name in "mvg")
    change = eval(quotient, {"sqrt": torch.sqrt, "m": m, "v": v, "g": g})
    torch.testing.assert_close(-change, named(steps)["Δθ"].value[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_shows_its_orthogonal_step_and_moves_biases_as_adamw(nesterov):
    module = make_module(optimizer="muon", weight_decay=0.0, nesterov=nesterov)
    steps = named(updates(module, lr_factor=FACTOR))
    start = 0
    for k, layer in enumerate(module.network.layers):
        o = steps["O"].value[start : start + layer.weight.numel()].view(layer.weight.shape)
        start += layer.weight.numel()
        change = steps[f"ΔW{'₁₂₃'[k]}"].value
        expected = -LR * FACTOR * 0.2 * max(layer.weight.shape) ** 0.5 * o
        torch.testing.assert_close(change, expected, rtol=TOLERANCE, atol=TOLERANCE)
        # All directions of the gradient, to which the first U is parallel, and none beyond it.
        left, _, right = torch.linalg.svd(torch_gradient(module, k), full_matrices=False)
        values = left.t() @ o @ right.t()
        torch.testing.assert_close(values, values.diag().diag(), rtol=0, atol=1e-9)
    changes, _ = torch_step(module, torch.optim.AdamW, {"weight_decay": 0.0})
    for k, change in enumerate(changes[1::2]):
        torch.testing.assert_close(steps[f"Δb{'₁₂₃'[k]}"].value, change, rtol=TOLERANCE, atol=TOLERANCE)
    assert torch.equal(steps["Δθ"].value, flat_changes(steps))


def torch_gradient(module, k):
    """dW of one layer, from a step of length 1 down it."""
    changes, _ = torch_step(module, torch.optim.SGD, {})
    return changes[2 * k] / -(LR * FACTOR)


def flat_changes(steps):
    return torch.cat([steps[f"Δ{symbol}{k}"].value.flatten() for symbol in "Wb" for k in "₁₂₃"])


def test_constraints_follow_the_rule():
    module = make_module(optimizer="sgd", l1=3.0, max_norm=1.2)
    plain = named(updates(make_module(optimizer="sgd"), lr_factor=FACTOR))
    steps = updates(module, lr_factor=FACTOR)
    shrunk, bounded = [step for step in steps if step.name == "W"]
    weights = module.network.flat[: module.network.weight_numel].detach() + plain["Δθ"].value[: len(shrunk.value)]
    threshold = LR * FACTOR * 3.0
    expected = torch.nn.functional.softshrink(weights, threshold)
    torch.testing.assert_close(shrunk.value, expected, rtol=TOLERANCE, atol=TOLERANCE)
    zeros = int((expected == 0).sum())
    assert shrunk.numbers == f"η λ₁ = 0.005 · 3:  {zeros} of {len(expected)} weights are 0"
    start, beyond = 0, 0
    for k, layer in enumerate(module.network.layers):
        part = expected[start : start + layer.weight.numel()].view(layer.weight.shape)
        start += layer.weight.numel()
        beyond += int((part.norm(dim=1) > 1.2).sum())
        after = layer.weight + named(steps)[f"ΔW{'₁₂₃'[k]}"].value
        torch.testing.assert_close(after, torch.renorm(part, 2, 0, 1.2), rtol=1e-6, atol=1e-6)
    assert 0 < beyond < 15
    assert bounded.numbers == f"c = 1.2:  {beyond} of 15 units were beyond"


def test_adam_norm_divides_by_one_number():
    steps = named(updates(make_module(optimizer="adam_norm", beta1=0.0, beta2=0.0, eps=0.0)))
    assert steps["v"].value.ndim == 0
    # Without memory the weights of the whole network move by the learning rate, whatever their gradients.
    length = torch.cat([steps[f"ΔW{k}"].value.flatten() for k in "₁₂₃"]).norm()
    torch.testing.assert_close(float(length), LR)


def test_the_weight_that_is_followed_has_the_largest_gradient():
    module = make_module(optimizer="sgd")
    steps = walk(module, *make_batch())
    gradient = next(step.value for step in steps if step.name == "dW₃")
    row, column = divmod(int(gradient.abs().argmax()), gradient.shape[1])
    followed = named(steps)[f"W₃[{row}, {column}]"]
    expected = module.network.layers[-1].weight[row, column] - LR * gradient[row, column]
    torch.testing.assert_close(followed.value, expected)


def test_the_first_layers_change_is_shown_as_images_of_the_units_that_moved_most():
    step = named(updates(make_module(optimizer="sgd"), image_shape=(2, 3)))["ΔW₁"]
    assert step.detail.shape == (7, 2, 3)
    lengths = step.detail.flatten(1).norm(dim=1).tolist()
    assert lengths == sorted(step.value.norm(dim=1).tolist(), reverse=True)


def test_an_initial_zero_has_no_relative_change():
    module = MLPModule(hidden=[3], init="zeros", optimizer="sgd")
    module._build((6, 3, 3))
    module.network.double()
    steps = named(updates(module))
    assert steps["ΔW₁"].numbers == ""
    assert float(steps["Δb₂"].value.norm()) > 0


@pytest.mark.parametrize(("averaging", "share"), [("ema", 0.9), ("swa", 1.0)])
def test_the_average_follows_the_weights(averaging, share):
    module = make_module(optimizer="sgd", averaging=averaging)
    steps = named(updates(module, lr_factor=FACTOR))
    expected = module.network.flat.detach() + share * steps["Δθ"].value
    torch.testing.assert_close(steps["θ̄"].value, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert steps["θ̄"].numbers == f"w = {share:g} at t = 0"
    assert "θ̄" not in named(updates(make_module(), lr_factor=FACTOR))
