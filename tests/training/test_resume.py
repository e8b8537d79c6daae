"""A training that is cut in two and resumed equals the one that was not, to the last bit."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks

PER_BATCH = {"validation": "per_batch", "shuffle": False}
DEFORMED = {"mixup": 0.4, "deform": DeformOptions(elastic=0.5, sigma=1.0, rotation=20, shift=0.5, noise=0.1, cutout=1)}
ROWS = {
    "adam, deformed, mixed": ({"optimizer": "adam", "lr": 0.01}, DEFORMED),
    "sgd with momentum, per batch": ({"optimizer": "sgd", "momentum": 0.9, "lr": 0.01, "reduction": "sum"}, PER_BATCH),
    "adamw, decay of weights": ({"optimizer": "adamw", "weight_decay": 0.1, "decay_biases": False}, {}),
    "adversary": ({"optimizer": "adam", "lr": 0.01, "vat": 1.0}, {}),
    "batch norm, dropout, averaged": (
        {"norm": "batch", "dropout": 0.3, "input_dropout": 0.1, "lr": 0.01, "averaging": "ema", "ema_decay": 0.8},
        {},
    ),
    "layer norm, sgd": ({"optimizer": "sgd", "norm": "layer", "lr": 0.01}, PER_BATCH),
    "sgd, averaged": ({"optimizer": "sgd", "lr": 0.05, "averaging": "ema", "ema_decay": 0.8}, {}),
    "nadam, l1": ({"optimizer": "nadam", "lr": 0.01, "weight_decay": 0.01, "l1": 0.01}, {}),
    "muon, max-norm": ({"optimizer": "muon", "lr": 0.01, "max_norm": 1.0}, {}),
    "adam, shuffled": ({"optimizer": "adam", "lr": 0.01, "amsgrad": True, "weight_decay": 0.01}, {}),
}
SCHEDULES = {
    "cosine": {"schedule": "cosine", "warmup_epochs": 0.5},
    "one_cycle": {"schedule": "one_cycle"},
    "tail average": {"averaging": "swa", "swa_start": 0.25},
    "step": {"schedule": "step", "step_epochs": 1.5, "gamma": 0.5},
}


@pytest.fixture
def fit_with_checkpoints(fit):
    """``fit`` that keeps last, best and a checkpoint after every third step; a window of records spans epochs."""

    def run(model, data, **trainer):
        callbacks = [ModelCheckpoint(None, "{step}", every_n_train_steps=3, save_top_k=-1), *checkpoint_callbacks()]
        settings = {"log_every_n_steps": 4, "max_epochs": 4, "enable_checkpointing": True, "callbacks": callbacks}
        return fit(model, data, **{**settings, **trainer})

    return run


def assert_same(resumed, straight):
    torch.testing.assert_close(resumed.module.state_dict(), straight.module.state_dict(), rtol=0, atol=0)
    states = [run.trainer.optimizers[0].state_dict() for run in (resumed, straight)]
    torch.testing.assert_close(states[0]["state"], states[1]["state"], rtol=0, atol=0)
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert resumed.module.curves.history == straight.module.curves.history
    assert resumed.trainer.global_step == straight.trainer.global_step
    assert resumed.trainer.current_epoch == straight.trainer.current_epoch == 4


@pytest.mark.parametrize("limit", [1.0, 3], ids=["whole epochs", "3 batches"])
@pytest.mark.parametrize(("model", "data"), ROWS.values(), ids=ROWS)
def test_two_halves_equal_the_whole(fit_with_checkpoints, model, data, limit):
    straight = fit_with_checkpoints(model, data, limit_train_batches=limit)
    half = fit_with_checkpoints(model, data, limit_train_batches=limit, max_epochs=2)
    assert half.trainer.global_step * 2 == straight.trainer.global_step
    last = half.checkpoints / "last.ckpt"
    resumed = fit_with_checkpoints(model, data, limit_train_batches=limit, ckpt_path=last)
    assert len(resumed.start.batches) == len(half.start.batches)
    assert_same(resumed, straight)


@pytest.mark.parametrize("step", [3, 6, 9])
@pytest.mark.parametrize("limit", [1.0, 4], ids=["whole epochs", "4 batches"])
@pytest.mark.parametrize(("model", "data"), ROWS.values(), ids=ROWS)
def test_from_the_middle_of_an_epoch(fit_with_checkpoints, model, data, limit, step):
    straight = fit_with_checkpoints(model, data, limit_train_batches=limit)
    path = straight.checkpoints / f"step={step}.ckpt"
    resumed = fit_with_checkpoints(model, data, limit_train_batches=limit, ckpt_path=path)
    assert len(resumed.start.batches) == straight.trainer.global_step - step
    assert_same(resumed, straight)


@pytest.mark.parametrize("interval", [1.0, 2], ids=["at the end of an epoch", "within an epoch"])
def test_from_the_checkpoint_of_a_validation(fit_with_checkpoints, interval):
    model = {"lr": 0.01}
    straight = fit_with_checkpoints(model, {}, val_check_interval=interval)
    half = fit_with_checkpoints(model, {}, val_check_interval=interval, max_epochs=2)
    resumed = fit_with_checkpoints(model, {}, val_check_interval=interval, ckpt_path=half.checkpoints / "best.ckpt")
    assert 0 < len(resumed.start.batches) < len(straight.start.batches)
    assert_same(resumed, straight)


def test_the_best_is_still_known_in_a_folder_of_its_own(fit_with_checkpoints):
    # With a learning rate that destroys what was learnt, none of the later epochs is better.
    half = fit_with_checkpoints({"lr": 0.02}, {}, max_epochs=2)
    before = {path.name: path.read_bytes() for path in half.checkpoints.iterdir()}
    resumed = fit_with_checkpoints({"lr": 5.0}, {}, ckpt_path=half.checkpoints / "last.ckpt")
    best = resumed.trainer.checkpoint_callbacks[-2]
    assert best.best_model_path == str(resumed.checkpoints / "best.ckpt")
    assert (resumed.checkpoints / "best.ckpt").read_bytes() == before["best.ckpt"]
    assert best.best_model_score == max(resumed.module.curves.history["val/accuracy"][1])
    assert read_checkpoint(resumed.checkpoints / "last.ckpt")["global_step"] == 20
    assert {path.name: path.read_bytes() for path in half.checkpoints.iterdir()} == before


def test_a_best_of_a_later_step_is_trained_again(fit_with_checkpoints):
    straight = fit_with_checkpoints({"lr": 0.01}, {})
    best = read_checkpoint(straight.checkpoints / "best.ckpt")
    assert best["global_step"] > 3
    resumed = fit_with_checkpoints({"lr": 0.01}, {}, ckpt_path=straight.checkpoints / "step=3.ckpt")
    again = read_checkpoint(resumed.checkpoints / "best.ckpt")
    assert again["global_step"] == best["global_step"]
    torch.testing.assert_close(again["state_dict"], best["state_dict"], rtol=0, atol=0)


def test_a_complete_training_leaves_its_checkpoints_again(fit_with_checkpoints):
    straight = fit_with_checkpoints({"lr": 0.01}, {})
    resumed = fit_with_checkpoints({"lr": 0.01}, {}, ckpt_path=straight.checkpoints / "last.ckpt")
    for name in ("best.ckpt", "last.ckpt"):
        assert (resumed.checkpoints / name).read_bytes() == (straight.checkpoints / name).read_bytes()
    assert resumed.module.curves.history == straight.module.curves.history


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_goes_on(fit_with_checkpoints, schedule):
    model = {"optimizer": "adam", "lr": 0.01, **schedule}
    straight = fit_with_checkpoints(model, {})
    resumed = fit_with_checkpoints(model, {}, ckpt_path=straight.checkpoints / "step=9.ckpt")
    assert_same(resumed, straight)


def test_options_given_now_count(fit_with_checkpoints):
    half = fit_with_checkpoints({"optimizer": "sgd", "lr": 0.01}, {}, max_epochs=2)
    model = {"optimizer": "sgd", "lr": 0.5, "momentum": 0.8}
    resumed = fit_with_checkpoints(model, {}, max_epochs=4, ckpt_path=half.checkpoints / "last.ckpt")
    rates = dict(zip(*resumed.module.curves.history["optim/lr"], strict=True))
    assert {step: rate for step, rate in rates.items() if step > 10} == {12: 0.5, 16: 0.5, 20: 0.5}
    assert resumed.trainer.optimizers[0].param_groups[0]["momentum"] == 0.8


def test_another_batch_size_is_refused_within_an_epoch(fit_with_checkpoints):
    whole = fit_with_checkpoints({}, {"batch_size": 8})
    with pytest.raises(UserError, match=r"^data\.batch_size: got 35, that is 2 minibatches an epoch"):
        fit_with_checkpoints({}, {"batch_size": 35}, ckpt_path=whole.checkpoints / "step=3.ckpt")
