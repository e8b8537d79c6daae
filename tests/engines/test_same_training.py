"""The promise to users: one config gives the same training on any number of processes, and all of them agree."""

import itertools
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
STEPS = 50
WEIGHTS = [0.5, 1.0, 2.0, 3.0]
RULES = {
    "sgd": {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9},
    # The largest ε that leaves it Adam: an entry's step is its gradient's sign where that is rounding alone.
    "adam": {"optimizer": "adam", "lr": 0.002, "eps": 1e-4},
}
PER_BATCH = {"validation": "per_batch", "shuffle": False}
# 70 training samples in minibatches of 23 leave one of a single sample, of which all processes but one get none.
RECIPES = {
    "mean, weights, smoothing": ({"class_weights": WEIGHTS, "label_smoothing": 0.1}, {"batch_size": 23}),
    "sum, clipped by norm, ema": (
        {"reduction": "sum", "clip_norm": 0.5, "averaging": "ema", "ema_decay": 0.9},
        {"batch_size": 16},
    ),
    "mean, clipped by value, swa, cosine": (
        {"clip_value": 0.01, "averaging": "swa", "swa_start": 0.5, "schedule": "cosine", "warmup_epochs": 1.0},
        {"batch_size": 23},
    ),
    "sum, decay of weights, one-cycle, per batch": (
        {"reduction": "sum", "weight_decay": 0.05, "decay_biases": False, "schedule": "one_cycle"},
        {"batch_size": 4, **PER_BATCH},
    ),
    "mean, decay, steps": ({"weight_decay": 0.05, "schedule": "step", "step_epochs": 3.0}, {"batch_size": 9}),
}
ROWS = {
    f"{rule}, {recipe}": ({**RULES[rule], **RECIPES[recipe][0]}, RECIPES[recipe][1])
    for rule, recipe in itertools.product(RULES, RECIPES)
}
TOLERANCE = {"32-true": 1e-6, "64-true": 1e-12}


def tensors(parts) -> dict[str, torch.Tensor]:
    """All that a training changes, by name: weights, averages, statistics, the optimizer's state."""
    module, (optimizer,) = parts.module, parts.trainer.optimizers
    found = dict(module.state_dict())
    for name, value in parts.trainer.strategy.optimizer_state(optimizer)["state"].get(0, {}).items():
        found[f"optimizer.{name}"] = torch.as_tensor(value).clone()
    return {name: tensor.clone() for name, tensor in found.items()}


@pytest.fixture
def trained(fit) -> Callable[..., dict]:
    """What is left of a training, in this process or in one of a group."""

    def train(model, data, n_processes=1, **trainer):
        settings = {"devices": n_processes, "strategy": "ddp" if n_processes > 1 else "auto", **trainer}
        parts = fit(model, data, log_every_n_steps=5, **settings)
        return {
            "tensors": tensors(parts),
            "steps": parts.trainer.global_step,
            "history": parts.module.curves.history,
            "metrics": {name: value.item() for name, value in parts.trainer.callback_metrics.items()},
        }

    return train


@pytest.fixture
def same_in_processes(trained, in_processes) -> Callable[..., None]:
    """Train rows of options in one start of several processes, and compare with one process, row by row."""

    def compare(n_processes, rows, tolerance, **trainer):
        def work(rank):
            return [trained(model, data, n_processes, **trainer) for model, data in rows.values()]

        ranks = in_processes(n_processes, work)
        for number, (name, (model, data)) in enumerate(rows.items()):
            one, (first, *others) = trained(model, data, **trainer), [results[number] for results in ranks]
            assert first["steps"] == one["steps"], name
            torch.testing.assert_close(
                first["tensors"],
                one["tensors"],
                rtol=tolerance,
                atol=tolerance,
                msg=lambda m, name=name: f"{name}: {m}",
            )
            assert first["history"].keys() == one["history"].keys(), name
            for key, (steps, values) in one["history"].items():
                assert first["history"][key] == (steps, pytest.approx(values, rel=20 * tolerance)), (name, key)
            for other in others:
                assert first["tensors"].keys() == other["tensors"].keys(), name
                for key, tensor in first["tensors"].items():
                    assert torch.equal(tensor, other["tensors"][key]), (name, key)
                assert first["history"] == other["history"], name
                assert first["metrics"] == other["metrics"], name

    return compare


# All rows with two processes; of the other pairs a part, chosen so that both rules and most recipes are in it.
@pytest.mark.parametrize(
    ("n_processes", "precision", "every"),
    [
        pytest.param(2, "32-true", 1, marks=pytest.mark.slow),
        (2, "64-true", 3),
        (3, "32-true", 4),
        pytest.param(3, "64-true", 2, marks=pytest.mark.slow),
    ],
)
def test_fifty_steps_are_those_of_one_process(same_in_processes, n_processes, precision, every):
    rows = dict(list(ROWS.items())[::every])
    settings = {"precision": precision, "max_steps": STEPS, "max_epochs": -1, "check_val_every_n_epoch": 4}
    same_in_processes(n_processes, rows, TOLERANCE[precision], **settings)


DECAY = {"weight_decay": 0.05, "decay_biases": False}
SHARDED = {
    "sgd, per batch": ({**RULES["sgd"], **DECAY, "reduction": "sum"}, {"batch_size": 4, **PER_BATCH}),
    "adam, clipped by norm": ({**RULES["adam"], "amsgrad": True, "clip_norm": 0.05}, {"batch_size": 23}),
    "adamw, ema, clipped by value": (
        {"optimizer": "adamw", "lr": 0.002, **DECAY, "averaging": "ema", "ema_decay": 0.9, "clip_value": 0.01},
        {"batch_size": 23},
    ),
    "nadam, batch norm": ({"optimizer": "nadam", "lr": 0.002, "eps": 1e-4, "norm": "batch"}, {"batch_size": 23}),
    "rmsprop, l1, max-norm": (
        {
            "optimizer": "rmsprop",
            "lr": 0.001,
            "eps": 1e-3,
            "momentum": 0.5,
            "centered": True,
            "l1": 0.01,
            "max_norm": 1.0,
        },
        {"batch_size": 16},
    ),
}


@pytest.mark.slow
def test_an_optimizer_in_three_shards_is_the_one_of_one_process(same_in_processes):
    rows = {name: ({**model, "shard_optimizer": True}, data) for name, (model, data) in SHARDED.items()}
    settings = {"precision": "64-true", "max_steps": STEPS, "max_epochs": -1, "check_val_every_n_epoch": 4}
    same_in_processes(3, rows, TOLERANCE["64-true"], **settings)


def test_layers_that_are_summed_early_are_summed_alike(same_in_processes):
    """Batch norm and clipping, whose own sums come between; an empty share, which sends zeros all the same."""
    overlapped = {"overlap_reduction": True}
    rows = {
        "sgd, batch norm": ({**RULES["sgd"], "norm": "batch", "lr": 0.01, **overlapped}, {"batch_size": 23}),
        "adam, clipped": ({**RULES["adam"], "clip_norm": 0.05, "reduction": "sum", **overlapped}, {"batch_size": 23}),
        "muon, adversary": ({"optimizer": "muon", "lr": 0.01, "vat": 0.5, "vat_xi": 1.0, **overlapped}, {}),
    }
    same_in_processes(3, rows, TOLERANCE["64-true"], precision="64-true", max_epochs=4)


def test_adam_with_its_usual_eps(same_in_processes):
    """An error of a gradient that is rounding alone grows by lr / ε, here 2e5."""
    model = {**RULES["adam"], "eps": 1e-8, "activation": "tanh"}
    settings = {"precision": "64-true", "max_steps": STEPS, "max_epochs": -1, "accumulate_grad_batches": 2}
    same_in_processes(3, {"adam": (model, {"batch_size": 9})}, 1e-10, **settings)


def test_all_stop_early_together(same_in_processes, trained):
    """A rate of learning at which the validation loss soon rises again, from sums that no process has alone."""
    model, data = {"optimizer": "sgd", "lr": 0.9, "momentum": 0.9}, {"batch_size": 23}

    def settings():
        return {"callbacks": [EarlyStopping("val/loss", patience=2)], "max_epochs": 40}

    assert 3 * 4 <= trained(model, data, **settings())["steps"] < 40 * 4
    same_in_processes(3, {"stopped": (model, data)}, 1e-4, **settings())
