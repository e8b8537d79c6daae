"""The module against torch.nn, autograd and torch.optim, step by step and figure by figure."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.errors import UserError
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks

DOUBLE = {"precision": "64-true"}
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


def options_of(config: str) -> tuple[dict, dict]:
    options = yaml.safe_load(Path(__file__).parents[2].joinpath("configs", config).read_text())
    return options["model"], options["data"]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("config", ["relu.yaml", "tanh.yaml", "he_relu.yaml"])
def test_the_notebooks_recipe_equals_autograd_and_torch_sgd(fit, dataset, torch_network, named_weights, config):
    model, data = options_of(config)
    data["batch_size"] = 16
    run = fit(model, data, max_epochs=3, log_every_n_steps=4, **DOUBLE)

    network = torch_network(run.start.weights, model["activation"])
    optimizer = torch.optim.SGD(network.parameters(), lr=model["lr"])
    x, y = dataset.train_x.double(), dataset.train_y
    expected: dict[str, tuple[list[int], list[float]]] = {
        name: ([], []) for name in ("train/loss", "val/loss", "val/accuracy")
    }
    step, window = 0, []
    for _ in range(3):
        for batch_x, batch_y in zip(x.split(16), y.split(16), strict=True):
            n_train = -(-7 * len(batch_y) // 10)
            losses = F.cross_entropy(network(batch_x[:n_train]), batch_y[:n_train], reduction="none")
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            step += 1
            with torch.no_grad():
                val_logits, val_y = network(batch_x[n_train:]), batch_y[n_train:]
            val_losses = F.cross_entropy(val_logits, val_y, reduction="none")
            window.append((losses.detach(), val_losses, (val_logits.argmax(1) == val_y).double()))
            if step % 4 == 0 or step == 18:
                for name, parts in zip(expected, zip(*window, strict=True), strict=True):
                    expected[name][0].append(step)
                    expected[name][1].append(torch.cat(parts).mean().item())
                window = []
    assert run.trainer.global_step == step == 18
    close(run.module.network.state_dict(), named_weights(network))
    for name, (steps, values) in expected.items():
        assert run.module.curves.history[name][0] == steps == [4, 8, 12, 16, 18]
        assert run.module.curves.history[name][1] == pytest.approx(values, rel=1e-9)


def cosine_after_rise(step, rise, total):
    if step < rise:
        return (step + 1) / (rise + 1)
    return (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2


def test_the_modern_recipe_equals_autograd_and_torch_adam(fit, torch_network, named_weights):
    model, data = options_of("adam.yaml")
    data |= {"batch_size": 16, "validation_size": 20}
    run = fit(model, data, max_epochs=4, log_every_n_steps=1, **DOUBLE)

    steps_per_epoch, total = 5, 20  # 90 − 20 samples
    rise = round(0.5 * steps_per_epoch)
    network = torch_network(run.start.weights)
    optimizer = torch.optim.Adam(network.parameters(), lr=1.0)
    losses, rates = [], []
    for step, batch in enumerate(run.start.batches):
        rates.append(0.001 * cosine_after_rise(step, rise, total))
        optimizer.param_groups[0]["lr"] = rates[-1]
        loss = F.cross_entropy(network(batch.x.double()), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(losses) == total
    close(run.module.network.state_dict(), named_weights(network))
    history = run.module.curves.history
    assert history["train/loss"] == (list(range(1, 21)), pytest.approx(losses, rel=1e-9))
    assert history["optim/lr"] == (list(range(1, 21)), pytest.approx(rates, rel=1e-12))
    assert history["val/loss"][0] == history["val/accuracy"][0] == [5, 10, 15, 20]


def test_shuffling_takes_every_training_sample_once_an_epoch_in_orders_that_differ(fit, dataset):
    run = fit(max_epochs=3)
    epochs = [torch.cat([batch.x for batch in run.start.batches[5 * e : 5 * e + 5]]) for e in range(3)]
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])
    rows = [sorted(map(tuple, epoch.tolist())) for epoch in epochs]
    assert rows[0] == rows[1] == rows[2]
    assert len(set(rows[0])) == 70
    assert set(rows[0]) < set(map(tuple, dataset.train_x.tolist()))


WEIGHTS = [0.5, 1.0, 2.0, 3.0]


def smoothed(reduction):
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    return lambda logits, y: F.cross_entropy(logits, y, weight=weight, label_smoothing=0.1, reduction=reduction)


def squared(reduction):
    return lambda logits, y: F.mse_loss(logits, F.one_hot(y, 4).double(), reduction=reduction)


ROWS = {
    "adamw, weights and smoothing, mean": (
        {"optimizer": "adamw", "label_smoothing": 0.1, "class_weights": WEIGHTS, "weight_decay": 0.1},
        smoothed("mean"),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        None,
    ),
    "sgd, weights and smoothing, sum": (
        {"optimizer": "sgd", "label_smoothing": 0.1, "class_weights": WEIGHTS, "reduction": "sum"},
        smoothed("sum"),
        lambda p: torch.optim.SGD(p, lr=0.01),
        None,
    ),
    "nesterov, squared error, clipped by norm": (
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "loss": "mse", "clip_norm": 0.05},
        squared("mean"),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
        lambda p: torch.nn.utils.clip_grad_norm_(p, 0.05),
    ),
    "rmsprop, squared error, sum, clipped by value": (
        {"optimizer": "rmsprop", "alpha": 0.9, "centered": True, "loss": "mse", "reduction": "sum", "clip_value": 0.2},
        squared("sum"),
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, centered=True),
        lambda p: torch.nn.utils.clip_grad_value_(p, 0.2),
    ),
}


@pytest.mark.parametrize(("model", "loss", "optimizer", "clip"), ROWS.values(), ids=ROWS)
def test_options_equal_torchs(fit, torch_network, named_weights, model, loss, optimizer, clip):
    run = fit({"lr": 0.01, **model}, **DOUBLE)
    network = torch_network(run.start.weights)
    reference = optimizer(network.parameters())
    for batch in run.start.batches:
        reference.zero_grad()
        loss(network(batch.x.double()), batch.y).backward()
        if clip is not None:
            clip(network.parameters())
        reference.step()
    close(run.module.network.state_dict(), named_weights(network))
    assert not torch.equal(run.module.network.state_dict()["layers.0.weight"], run.start.weights["layers.0.weight"])


def test_clip_norm_is_reached_in_these_rows(fit):
    """Were it not, the rows above would not test it."""
    clipped, free = (fit({"optimizer": "sgd", "loss": "mse", "lr": 0.01, "clip_norm": c}) for c in (0.05, None))
    assert not torch.equal(clipped.module.network.flat, free.module.network.flat)


@pytest.mark.parametrize("validation", ["holdout", "per_batch"])
def test_evaluation_equals_torchs(fit, dataset, torch_network, validation):
    run = fit({"class_weights": WEIGHTS}, {"validation": validation, "shuffle": False}, **DOUBLE)
    network = torch_network(run.module.network.state_dict())
    run.trainer.validate(run.module, run.data, verbose=False)
    run.trainer.test(run.module, run.data, verbose=False)
    figures = run.module.results
    x = run.data.val_dataloader().x.double()
    for part, samples, y in (
        ("val", x, run.data.val_dataloader().y),
        ("test", dataset.test_x.double(), dataset.test_y),
    ):
        logits = network(samples)
        expected = F.cross_entropy(logits, y, weight=torch.tensor(WEIGHTS, dtype=torch.float64))
        assert figures[f"{part}/loss"] == pytest.approx(expected.item(), rel=1e-6)
        assert figures[f"{part}/accuracy"] == pytest.approx((logits.argmax(1) == y).double().mean().item())


def test_float64_is_float64_throughout(fit):
    run = fit({"optimizer": "adam", "class_weights": WEIGHTS}, **DOUBLE)
    (state,) = run.trainer.optimizers[0].state_dict()["state"].values()
    tensors = [run.module.network.flat, run.module.network.flat_grad, *run.start.weights.values()]
    tensors += [value for value in state.values() if torch.is_tensor(value)]
    assert len(tensors) > 8
    assert {tensor.dtype for tensor in tensors} == {torch.float64}


@pytest.mark.parametrize(
    ("trainer", "steps", "recorded", "validated"),
    [
        ({"max_epochs": 3}, 15, [2, 4, 6, 8, 10, 12, 14, 15], [5, 10, 15]),
        ({"max_epochs": 2, "log_every_n_steps": 5}, 10, [5, 10], [5, 10]),
        ({"max_epochs": 2, "log_every_n_steps": 100}, 10, [10], [5, 10]),
        ({"max_epochs": -1, "max_steps": 7}, 7, [2, 4, 6, 7], [5]),
        ({"max_epochs": 3, "limit_train_batches": 2}, 6, [2, 4, 6], [2, 4, 6]),
        ({"max_epochs": 2, "limit_train_batches": 0.4, "log_every_n_steps": 1}, 4, [1, 2, 3, 4], [2, 4]),
        ({"max_epochs": 2, "val_check_interval": 2}, 10, [2, 4, 6, 8, 10], [2, 4, 7, 9]),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2, "log_every_n_steps": 10}, 20, [10, 20], [10, 20]),
        ({"max_epochs": 1, "num_sanity_val_steps": 1}, 5, [2, 4, 5], [5]),
        ({"fast_dev_run": True}, 1, [1], [1]),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_steps_are_counted_and_recorded_where_the_trainer_says(fit, trainer, steps, recorded, validated):
    run = fit(**trainer)
    history = run.module.curves.history
    assert run.trainer.global_step == len(run.start.batches) == steps
    assert history["train/loss"][0] == history["optim/lr"][0] == recorded
    assert history["val/loss"][0] == history["val/accuracy"][0] == validated


def test_an_adversarys_divergence_is_recorded_beside_the_cross_entropy(fit):
    plain, weightless, adversarial = (
        fit({"optimizer": "sgd", "vat": vat}, max_epochs=1, log_every_n_steps=1).module.curves.history
        for vat in (0.0, 1e-30, 1.0)
    )
    assert "train/vat" not in plain
    # It only watches, and shows what the divergence is of the weights that the cross-entropy is of.
    assert weightless["train/loss"] == (plain["train/loss"][0], pytest.approx(plain["train/loss"][1], rel=1e-5))
    assert adversarial["train/vat"][0] == adversarial["train/loss"][0]
    assert adversarial["train/loss"][1][0] == pytest.approx(plain["train/loss"][1][0], rel=1e-6)
    assert adversarial["train/vat"][1][0] == pytest.approx(weightless["train/vat"][1][0], rel=1e-6)
    assert all(0 < value < 100 for value in adversarial["train/vat"][1])
    assert adversarial["train/vat"][1][-1] < weightless["train/vat"][1][-1]


def test_no_step_is_lost_between_two_records(fit):
    means, single = (fit({"optimizer": "sgd"}, log_every_n_steps=n).module.curves.history["train/loss"] for n in (4, 1))
    sizes = [16, 16, 16, 16, 6] * 2
    for (start, stop), mean in zip(((0, 4), (4, 8), (8, 10)), means[1], strict=True):
        losses = zip(single[1][start:stop], sizes[start:stop], strict=True)
        assert mean == pytest.approx(sum(loss * n for loss, n in losses) / sum(sizes[start:stop]), rel=1e-6)


def test_a_minibatch_too_small_to_validate_is_left_out_of_the_mean(fit):
    # 90 = 5 · 16 + 10 would leave three; 90 = 2 · 44 + 2 leaves none.
    run = fit(None, {"batch_size": 44, "validation": "per_batch", "shuffle": False}, log_every_n_steps=1)
    history = run.module.curves.history
    assert history["train/loss"][0] == [1, 2, 3, 4, 5, 6]
    assert history["val/loss"][0] == history["val/accuracy"][0] == [1, 2, 4, 5]


@pytest.mark.parametrize("validation", ["holdout", "per_batch"])
def test_a_diverged_training_ends_before_it_spoils_the_checkpoint(make_parts, validation):
    data = {"validation": validation, "shuffle": False}
    callbacks = checkpoint_callbacks()
    parts = make_parts(
        {"optimizer": "sgd"}, data, max_epochs=5, log_every_n_steps=100, enable_checkpointing=True, callbacks=callbacks
    )
    n_validations = 0
    on_validation_end = parts.module.on_validation_epoch_end

    def diverge_after_the_second_validation():
        nonlocal n_validations
        on_validation_end()
        n_validations += 1
        if n_validations == 2:
            parts.module.hparams["lr"] = 1e30

    parts.module.on_validation_epoch_end = diverge_after_the_second_validation
    with pytest.raises(NotFinite, match=r"^step 1[2-5] is not finite: .*a learning rate that is too large, 1e\+30"):
        parts.trainer.fit(parts.module, parts.data)
    assert n_validations == 2
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(parts.checkpoints / name, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    assert sorted(path.name for path in parts.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"hidden": [5, 0]}, r"^model\.hidden: got \[5, 0\], every width must be at least 1"),
        ({"clip_norm": 0.0}, r"^model\.clip_norm: got 0\.0, must be above zero and finite"),
        ({"clip_value": math.nan}, r"^model\.clip_value: got nan, must be above zero and finite"),
        ({"optimizer": "sgd", "beta1": 0.9}, r"^model\.beta1: got 0\.9, but sgd does not take it"),
        ({"schedule": "step", "gamma": 2.0}, r"^model\.gamma"),
        ({"loss": "mse", "label_smoothing": 0.1}, r"^model\.label_smoothing"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_options_are_refused_before_there_is_data(model, message):
    with pytest.raises(UserError, match=message):
        MLPModule(**model)


def test_class_weights_must_be_one_a_class(make_parts):
    parts = make_parts({"class_weights": [1.0, 2.0]})
    with pytest.raises(UserError, match=r"^model\.class_weights: got 2 weights, must be 4, one for each class"):
        parts.trainer.fit(parts.module, parts.data)


def test_a_network_without_hidden_layers_trains(fit):
    run = fit({"hidden": [], "lr": 0.05}, max_epochs=8)
    losses = run.module.curves.history["train/loss"][1]
    assert run.module.network.sizes == (12, 4)
    assert losses[-1] < losses[0]


def test_the_seed_draws_the_weights(fit):
    first, same, other = (fit({"seed": seed}, max_steps=1).start.weights for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_lightning_finds_the_hook_that_it_noted():
    module = MLPModule()
    module._current_fx_name = "training_step"
    assert module._current_fx_name == "training_step"
    module.child = torch.nn.Linear(2, 2)
    assert "child.weight" in module.state_dict()
