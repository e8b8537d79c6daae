import pytest
import torch

from mlp_lightning.commands.explain import walk
from mlp_lightning.training.module import MLPModule

TOLERANCE = 1e-11
SIZES = (6, 7, 5, 3)

# Options of the module, and torch's counterpart.
RULES = {
    "sgd": ({"optimizer": "sgd"}, torch.optim.SGD, {}),
    "sgd decay": ({"optimizer": "sgd", "weight_decay": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (
        {"optimizer": "sgd", "momentum": 0.9, "dampening": 0.2},
        torch.optim.SGD,
        {"momentum": 0.9, "dampening": 0.2},
    ),
    "nesterov decay": (
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": ({"optimizer": "adam"}, torch.optim.Adam, {}),
    "adam decay": (
        {"optimizer": "adam", "beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1},
        torch.optim.Adam,
        {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "amsgrad": ({"optimizer": "adam", "amsgrad": True}, torch.optim.Adam, {"amsgrad": True}),
    "adamw": ({"optimizer": "adamw", "weight_decay": 0.2}, torch.optim.AdamW, {"weight_decay": 0.2}),
    "rmsprop": ({"optimizer": "rmsprop"}, torch.optim.RMSprop, {}),
    "rmsprop all": (
        {"optimizer": "rmsprop", "centered": True, "momentum": 0.5, "weight_decay": 0.1, "alpha": 0.9},
        torch.optim.RMSprop,
        {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "alpha": 0.9},
    ),
}
LR, FACTOR = 0.02, 0.25


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


@pytest.mark.parametrize(("options", "rule", "torch_options"), RULES.values(), ids=RULES)
def test_the_step_is_torchs(options, rule, torch_options):
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
