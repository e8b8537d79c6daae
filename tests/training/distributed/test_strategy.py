"""Two processes against one: the same weights and the same figures."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.engines.ranks import gather_from_ranks, sum_over_ranks
from mlp_lightning.errors import UserError
from mlp_lightning.training.distributed.strategy import START_METHODS, check_strategy
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks

# Forked from a process that has threads of others: Python ≥ 3.12 warns, and these children use none of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
FORKED = {"devices": 2, "strategy": "ddp_fork"}
WEIGHTS = [0.5, 1.0, 2.0, 3.0]
PER_BATCH = {"validation": "per_batch", "shuffle": False}
DEFORMED = {"mixup": 0.4, "deform": DeformOptions(elastic=0.5, sigma=1.0, rotation=20, shift=0.5, noise=0.1, cutout=1)}
# 70 training samples of a holdout are 3 · 23 + 1: one process has no sample of the last minibatch. Of a minibatch of 5
# samples one validates, and one process has none.
ROWS = {
    "sum, weights, shuffled": ({"reduction": "sum", "class_weights": WEIGHTS}, {"batch_size": 23}),
    "mean, weights, shuffled": ({"reduction": "mean", "class_weights": WEIGHTS}, {"batch_size": 23}),
    "decay of weights": ({"weight_decay": 0.1, "decay_biases": False}, {"batch_size": 16}),
    # The length of the trial step magnifies roundings by its reciprocal: that of 1 leaves them as they are.
    "adversary, mean, weights": ({"vat": 1.0, "vat_xi": 1.0, "class_weights": WEIGHTS}, {"batch_size": 23}),
    "adversary, sum, clipped": (
        {"vat": 0.5, "vat_xi": 1.0, "reduction": "sum", "clip_norm": 0.5},
        {"batch_size": 16},
    ),
    "adversary, dropout, batch norm": (
        {"vat": 0.5, "vat_xi": 1.0, "dropout": 0.2, "input_dropout": 0.1, "norm": "batch"},
        {"batch_size": 5},
    ),
    "dropout": ({"dropout": 0.3, "input_dropout": 0.2}, {"batch_size": 23}),
    # The last minibatch of 70 has one sample: it has no spread, and one of the processes has no share in it.
    "batch norm, mean": ({"norm": "batch"}, {"batch_size": 23}),
    "batch norm, dropout, sum, weights": (
        {"norm": "batch", "dropout": 0.3, "reduction": "sum", "class_weights": WEIGHTS, "lr": 0.002},
        {"batch_size": 16},
    ),
    "batch norm, per batch, averaged": (
        {"norm": "batch", "averaging": "ema", "ema_decay": 0.8},
        {"batch_size": 9, **PER_BATCH},
    ),
    "layer norm, dropout": ({"norm": "layer", "dropout": 0.3}, {"batch_size": 5}),
    "averaged": ({"averaging": "ema", "ema_decay": 0.8}, {"batch_size": 23}),
    "muon": ({"optimizer": "muon", "lr": 0.01}, {"batch_size": 16}),
    "nadam": ({"optimizer": "nadam", "lr": 0.01, "momentum": None}, {"batch_size": 16}),
    "l1, max-norm": ({"l1": 0.05, "max_norm": 1.0}, {"batch_size": 23}),
    "deformed, mixed, weights": ({"class_weights": WEIGHTS}, {"batch_size": 23, **DEFORMED}),
    "deformed, mixed, per batch": ({}, {"batch_size": 5, **DEFORMED, **PER_BATCH}),
    "mean, per batch": ({"reduction": "mean"}, {"batch_size": 5, **PER_BATCH}),
    "mean, squared error, clipped": ({"loss": "mse", "clip_norm": 0.05}, {"batch_size": 16}),
    "sum, per batch, weights": ({"reduction": "sum", "class_weights": WEIGHTS}, {"batch_size": 16, **PER_BATCH}),
}


@pytest.fixture
def last_of(fit):
    """The checkpoint at the end of a training, whose processes return nothing else."""

    def run(model, data, **trainer):
        parts = fit(
            {"optimizer": "sgd", "lr": 0.02, "momentum": 0.5, **model},
            data,
            callbacks=checkpoint_callbacks(),
            enable_checkpointing=True,
            log_every_n_steps=3,
            **trainer,
        )
        return torch.load(parts.checkpoints / "last.ckpt", weights_only=True)

    return run


def assert_equal(two, one):
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-6, atol=1e-6)
    assert two["global_step"] == one["global_step"]
    assert two["history"].keys() == one["history"].keys()
    for name, (steps, values) in one["history"].items():
        assert two["history"][name][0] == steps, name
        assert two["history"][name][1] == pytest.approx(values, rel=1e-5), name


@pytest.mark.parametrize(("model", "data"), ROWS.values(), ids=ROWS)
def test_two_processes_equal_one(last_of, model, data):
    assert_equal(last_of(model, data, **FORKED), last_of(model, data))


def test_three_processes_equal_one_with_batch_norm_and_dropout(last_of):
    model, data = {"norm": "batch", "dropout": 0.3, "input_dropout": 0.1}, {"batch_size": 23}
    assert_equal(last_of(model, data, devices=3, strategy="ddp_fork"), last_of(model, data))


@pytest.mark.parametrize("model", [{"momentum": 0.0}, {"optimizer": "adam", "momentum": None, "clip_norm": 0.1}])
def test_groups_of_steps_in_two_processes(last_of, model):
    data = {"batch_size": 5}
    many, single = (last_of(model, data, steps_per_execution=size, **FORKED) for size in (50, 1))
    assert_equal(many, last_of(model, data))
    assert all(torch.equal(many["state_dict"][name], single["state_dict"][name]) for name in single["state_dict"])
    assert (many["history"], many["loops"]) == (single["history"], single["loops"])


def test_the_first_process_is_given_what_the_others_came_to(fit):
    model = {"averaging": "ema", "ema_decay": 0.8, "class_weights": WEIGHTS}
    two = fit(model, callbacks=checkpoint_callbacks(), enable_checkpointing=True, **FORKED)
    checkpoint = torch.load(two.checkpoints / "last.ckpt", weights_only=True)
    torch.testing.assert_close(dict(two.module.state_dict()), checkpoint["state_dict"], rtol=0, atol=0)
    assert two.module.curves.history == checkpoint["history"]
    assert two.module.results["val/accuracy"] == two.trainer.callback_metrics["val/accuracy"]
    two.trainer.test(two.module, two.data, verbose=False)
    one = fit(model)
    one.trainer.test(one.module, one.data, verbose=False)
    assert two.module.results["test/loss"] == pytest.approx(one.module.results["test/loss"], rel=1e-5)
    assert torch.equal(two.module.counts["test"], one.module.counts["test"])


class SeedByRank(pl.Callback):
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        pl_module.hparams["seed"] = trainer.global_rank


def test_processes_start_from_the_weights_of_the_first(fit):
    settings = {"enable_checkpointing": True, "max_epochs": 1}
    two = fit({"seed": 0}, callbacks=[SeedByRank(), *checkpoint_callbacks()], **settings, **FORKED)
    one = fit({"seed": 0}, max_epochs=1)
    weights = torch.load(two.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(weights, dict(one.module.state_dict()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_processes", [2, 3])
def test_each_test_sample_counts_once(fit, make_parts, dataset, n_processes):
    trained = fit({"class_weights": WEIGHTS, "lr": 0.01}, max_epochs=4)
    trained.trainer.test(trained.module, trained.data, verbose=False)
    one = trained.module.results
    assert len(dataset.test_y) % n_processes
    several = make_parts(devices=n_processes, strategy="ddp_fork")
    several.trainer.test(trained.module, several.data, verbose=False)
    two = several.trainer.callback_metrics
    correct = one["test/accuracy"] * len(dataset.test_y)
    assert 0 < correct < len(dataset.test_y)
    assert two["test/accuracy"].item() * len(dataset.test_y) == pytest.approx(correct, rel=1e-6)
    assert two["test/loss"].item() == pytest.approx(one["test/loss"], rel=1e-6)


def test_two_processes_go_on_from_a_checkpoint_within_a_window_of_records(fit):
    settings = {"enable_checkpointing": True, "log_every_n_steps": 4}
    straight = fit({}, PER_BATCH, log_every_n_steps=4)
    half = fit({}, PER_BATCH, max_epochs=1, callbacks=checkpoint_callbacks(), **settings, **FORKED)
    last = half.checkpoints / "last.ckpt"
    resumed = fit({}, PER_BATCH, ckpt_path=last, callbacks=checkpoint_callbacks(), **settings, **FORKED)
    history = torch.load(resumed.checkpoints / "last.ckpt", weights_only=True)["history"]
    expected = straight.module.curves.history
    assert expected["train/loss"][0] == [4, 8, 12]
    for name, (steps, values) in history.items():
        assert (steps, values) == (expected[name][0], pytest.approx(expected[name][1], rel=1e-5)), name
    # And bitwise what the same two come to without a stop.
    two = fit({}, PER_BATCH, callbacks=checkpoint_callbacks(), **settings, **FORKED)
    assert history == torch.load(two.checkpoints / "last.ckpt", weights_only=True)["history"]


class NoteRanks(pl.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        share = [torch.tensor(trainer.global_rank)] * (1 + trainer.global_rank)
        gathered = gather_from_ranks(share)
        if trainer.is_global_zero:
            self.path.write_text(repr([[int(part) for part in share] for share in gathered]))


def test_every_share_is_gathered_by_rank(fit, tmp_path):
    fit({}, callbacks=[NoteRanks(tmp_path / "two")], max_epochs=1, **FORKED)
    assert (tmp_path / "two").read_text() == "[[0], [1, 1]]"
    assert gather_from_ranks("alone") == ["alone"]


def test_one_process_has_the_sum_already():
    tensor = torch.ones(2)
    assert sum_over_ranks(tensor) is tensor


@pytest.mark.parametrize("name", START_METHODS)
def test_lightnings_names_stand_for_this_strategy(make_parts, name):
    check_strategy(make_parts(strategy=name, devices=2).trainer)


def test_a_single_device_needs_no_processes(make_parts):
    check_strategy(make_parts(devices=1).trainer)


def test_another_strategy_is_refused(make_parts):
    trainer = make_parts(strategy="ddp_find_unused_parameters_true", devices=2).trainer
    with pytest.raises(UserError, match=r"^trainer\.strategy: got DDPStrategy, must be auto or one of ddp, ddp_spawn"):
        check_strategy(trainer)
