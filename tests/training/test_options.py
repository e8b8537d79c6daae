import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from mlp_lightning.commands.check.oracle_rules import RULE_OPTIONS
from mlp_lightning.errors import UserError
from mlp_lightning.optim import OPTIMIZERS
from mlp_lightning.training.options import (
    OPTIMIZER_OPTIONS,
    SCHEDULE_OPTIONS,
    SCHEDULES,
    make_loss,
    make_optimizer,
    make_schedule,
)

# torch's options, and its groups by the kind of tensor.
TAKEN = {
    name: {*options, "decay_biases"} if "weight_decay" in options else {*options}
    for name, options in RULE_OPTIONS.items()
}
VALUES = {
    "momentum": 0.5,
    "dampening": 0.25,
    "nesterov": False,
    "weight_decay": 0.125,
    "decay_biases": False,
    "beta1": 0.75,
    "beta2": 0.8,
    "eps": 1e-3,
    "amsgrad": True,
    "alpha": 0.9,
    "centered": True,
    "momentum_decay": 0.5,
    "decoupled_weight_decay": True,
    "ns_steps": 3,
}


def optimizer(name, lr=0.1, **options):
    return make_optimizer(torch.zeros(6), [(1, 2), (2, 1)], name, lr, {**dict.fromkeys(OPTIMIZER_OPTIONS), **options})


def schedule(name, *, warmup_epochs=0.0, steps_per_epoch=10, total_steps=100.0, **options):
    return make_schedule(
        name,
        {**dict.fromkeys(SCHEDULE_OPTIONS), **options},
        warmup_epochs=warmup_epochs,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )


@pytest.mark.parametrize("option", OPTIMIZER_OPTIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_its_own_options_and_refuses_the_others(name, option):
    value = VALUES[option]
    if option in TAKEN[name]:
        (group,) = optimizer(name, **{option: value}).param_groups
        betas = dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))
        assert {**group, **betas}[option] == value
    else:
        with pytest.raises(UserError, match=rf"^model\.{option}: got {value}, but {name} does not take it; it takes "):
            optimizer(name, **{option: value})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_that_are_null_keep_the_rules_defaults(name):
    weights = {"weight_shapes": [(1, 2), (2, 1)]} if name == "muon" else {"weight_numel": 4}
    rule = OPTIMIZERS[name]([torch.zeros(6)], lr=0.1, **weights)
    assert optimizer(name).defaults == rule.defaults


def test_the_norm_of_adam_norm_leaves_the_biases_out():
    assert optimizer("adam_norm").param_groups[0]["weight_numel"] == 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"beta1": 1.0}, r"^model\.beta1 .* 1\.0"),
        ("adam", {"lr": -1.0}, r"^model\.lr .* -1\.0"),
        ("sgd", {"lr": math.nan}, r"^model\.lr .* nan"),
        ("sgd", {"nesterov": True}, r"^model\.nesterov"),
        ("rmsprop", {"alpha": -0.1}, r"^model\.alpha .* -0\.1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_value_outside_its_range_is_named(name, options, message):
    with pytest.raises(UserError, match=message):
        optimizer(name, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 0.1}, r"^model\.label_smoothing: got 0\.1, but loss mse does not take it"),
        ({"class_weights": [1.0, 2.0]}, r"^model\.class_weights: got \[1\.0, 2\.0\], but loss mse does not take it"),
    ],
    ids=["label_smoothing", "class_weights"],
)
def test_mse_takes_no_options(options, message):
    with pytest.raises(UserError, match=message):
        make_loss("mse", "sum", **{"label_smoothing": 0.0, "class_weights": None, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, r"^model\.label_smoothing .* 1\.0"),
        ({"class_weights": [1.0, 0.0]}, r"^model\.class_weights .* \[1\.0, 0\.0\]"),
        ({"class_weights": [1.0, math.inf]}, r"^model\.class_weights .* inf"),
    ],
    ids=["label_smoothing", "zero weight", "infinite weight"],
)
def test_an_option_of_cross_entropy_outside_its_range_is_named(options, message):
    with pytest.raises(UserError, match=message):
        make_loss("cross_entropy", "mean", **{"label_smoothing": 0.0, "class_weights": None, **options})


def test_cross_entropy_gets_its_options():
    logits, targets = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 0])
    loss, _ = make_loss("cross_entropy", "mean", label_smoothing=0.2, class_weights=[1.0, 2.0, 3.0]).forward(
        logits, targets
    )
    expected = cross_entropy(logits, targets, weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.2)
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        ({"name": "constant"}, [0, 50, 1000], [1, 1, 1]),
        ({"name": "step", "step_epochs": 2.0, "gamma": 0.5}, [0, 19, 20, 39, 40], [1, 1, 0.5, 0.5, 0.25]),
        ({"name": "step"}, [49, 50], [1, 0.1]),
        ({"name": "step", "step_epochs": 0.01, "gamma": 0.5}, [0, 1, 2], [1, 0.5, 0.25]),
        ({"name": "cosine"}, [0, 50, 100, 200], [1, 0.5, 0, 0]),
        ({"name": "cosine", "final_factor": 0.5}, [0, 50, 100], [1, 0.75, 0.5]),
        ({"name": "cosine", "warmup_epochs": 2.0}, [0, 19, 20, 60, 100], [1 / 21, 20 / 21, 1, 0.5, 0]),
        ({"name": "constant", "warmup_epochs": 0.3}, [0, 1, 2, 3, 4], [0.25, 0.5, 0.75, 1, 1]),
        ({"name": "one_cycle"}, [0, 29, 99], [1 / 25, 1, 1 / 25e4]),
        ({"name": "one_cycle", "pct_start": 0.5}, [49], [1]),
    ],
    ids=lambda value: "-".join(str(part) for part in value.values()) if isinstance(value, dict) else "",
)
def test_a_schedule_counts_epochs_in_steps(options, steps, expected):
    multiplier = schedule(**options)
    assert [multiplier(step) for step in steps] == pytest.approx(expected)


@pytest.mark.parametrize("option", SCHEDULE_OPTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_refuses_the_options_of_others(name, option):
    if option in SCHEDULES[name]:
        schedule(name, **{option: 0.5})
    else:
        with pytest.raises(UserError, match=rf"^model\.{option}: got 0\.5, but schedule {name} does not take it"):
            schedule(name, **{option: 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "constant", "warmup_epochs": -1.0}, r"^model\.warmup_epochs: got -1\.0, must be"),
        ({"name": "constant", "warmup_epochs": math.inf}, r"^model\.warmup_epochs: got inf, must be"),
        ({"name": "constant", "warmup_epochs": math.nan}, r"^model\.warmup_epochs: got nan, must be"),
        ({"name": "one_cycle", "warmup_epochs": 1.0}, r"^model\.warmup_epochs: got 1\.0, but schedule one_cycle"),
        ({"name": "cosine", "warmup_epochs": 10.0}, r"^model\.warmup_epochs: got 10\.0, which leaves no step"),
        ({"name": "step", "step_epochs": 0.0}, r"^model\.step_epochs: got 0\.0, must be above zero"),
        ({"name": "step", "step_epochs": math.nan}, r"^model\.step_epochs: got nan, must be above zero"),
        ({"name": "step", "step_epochs": math.inf}, r"^model\.step_epochs: got inf, must be"),
        ({"name": "step", "gamma": 0.0}, r"^model\.gamma .* 0\.0"),
        ({"name": "cosine", "final_factor": 2.0}, r"^model\.final_factor .* 2\.0"),
        ({"name": "one_cycle", "pct_start": 1.5}, r"^model\.pct_start .* 1\.5"),
        ({"name": "cosine", "total_steps": math.inf}, r"^model\.schedule: cosine needs an end"),
        ({"name": "one_cycle", "total_steps": math.inf}, r"^model\.schedule: one_cycle needs an end"),
    ],
    ids=lambda value: "-".join(str(part) for part in value.values()) if isinstance(value, dict) else "",
)
def test_a_schedule_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        schedule(**options)
