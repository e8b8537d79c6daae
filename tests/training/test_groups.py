"""Whatever the size of the groups, everything that Lightning or a user can see is what it is with groups of one."""

import itertools

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, Timer, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.errors import UserError
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.callbacks.histograms import Histograms
from mlp_lightning.training.callbacks.progress_bar import GroupProgressBar
from mlp_lightning.training.groups import wants_every_step
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks
from mlp_lightning.training.trainer import Trainer

PER_BATCH = {"validation": "per_batch", "shuffle": False}
DEFORMED = {"mixup": 0.4, "deform": DeformOptions(elastic=0.5, sigma=1.0, rotation=20, shift=0.5, noise=0.1, cutout=1)}
RECIPES = {
    "adam, deformed, mixed": ({"optimizer": "adam", "lr": 0.01}, DEFORMED),
    "sgd inside the product": ({"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01}, {}),
    "sgd clipped, per batch": ({"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "clip_norm": 0.5}, PER_BATCH),
    "sgd inside the product, decay of weights": (
        {"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01, "decay_biases": False},
        {},
    ),
    "adversary, sgd inside the product": ({"optimizer": "sgd", "lr": 0.05, "vat": 1.0}, {}),
    "adversary, dropout, batch norm": ({"optimizer": "adam", "vat": 0.5, "dropout": 0.2, "norm": "batch"}, {}),
    "dropout, sgd inside the product": ({"optimizer": "sgd", "lr": 0.05, "dropout": 0.3, "input_dropout": 0.1}, {}),
    "batch norm, dropout, averaged": (
        {"optimizer": "adam", "lr": 0.01, "norm": "batch", "dropout": 0.3, "averaging": "ema", "ema_decay": 0.7},
        {},
    ),
    "layer norm, sgd, per batch": ({"optimizer": "sgd", "lr": 0.05, "norm": "layer"}, PER_BATCH),
    "adam, averaged": ({"optimizer": "adam", "lr": 0.01, "averaging": "ema", "ema_decay": 0.7}, {}),
    "sgd, tail averaged, per batch": (
        {"optimizer": "sgd", "lr": 0.05, "averaging": "swa", "swa_start": 0.5},
        PER_BATCH,
    ),
    "muon, max-norm": ({"optimizer": "muon", "lr": 0.01, "max_norm": 1.0, "schedule": "cosine"}, {}),
    "nadam, l1": ({"optimizer": "nadam", "lr": 0.01, "l1": 0.01}, {}),
    "sgd inside the product, constrained": ({"optimizer": "sgd", "lr": 0.05, "l1": 0.01, "max_norm": 1.0}, {}),
    "adam, cosine": ({"optimizer": "adam", "lr": 0.01, "schedule": "cosine", "warmup_epochs": 0.5}, {}),
    "sum of weighted classes": (
        {"optimizer": "rmsprop", "reduction": "sum", "class_weights": [1.0, 2.0, 0.5, 1.5], "activation": "tanh"},
        {},
    ),
}
# An epoch is five minibatches long.
TRAINERS = {
    "epochs": {"max_epochs": 3},
    "rare records": {"max_epochs": 3, "log_every_n_steps": 7},
    "a record a step": {"max_epochs": 2, "log_every_n_steps": 1},
    "max_steps": {"max_epochs": -1, "max_steps": 8, "log_every_n_steps": 100},
    "limit_train_batches": {"max_epochs": 3, "limit_train_batches": 3, "log_every_n_steps": 100},
    "val_check_interval": {"max_epochs": 3, "val_check_interval": 2, "log_every_n_steps": 100},
    "val_check_interval over epochs": {
        "max_epochs": 4,
        "val_check_interval": 7,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 100,
    },
    "check_val_every_n_epoch": {"max_epochs": 4, "check_val_every_n_epoch": 2, "log_every_n_steps": 100},
    "accumulated": {"max_epochs": 3, "accumulate_grad_batches": 2, "log_every_n_steps": 100},
    "accumulated, records": {"max_epochs": 3, "accumulate_grad_batches": 3, "log_every_n_steps": 4},
    "accumulated, a record a step": {"max_epochs": 2, "accumulate_grad_batches": 2, "log_every_n_steps": 1},
    "accumulated, max_steps": {
        "max_epochs": -1,
        "max_steps": 4,
        "accumulate_grad_batches": 2,
        "log_every_n_steps": 100,
    },
    "accumulated, validated between updates": {
        "max_epochs": 3,
        "val_check_interval": 3,
        "accumulate_grad_batches": 2,
        "log_every_n_steps": 100,
    },
    "accumulated, bf16-mixed": {"max_epochs": 2, "precision": "bf16-mixed", "accumulate_grad_batches": 2},
    "bf16-mixed": {"max_epochs": 2, "precision": "bf16-mixed", "log_every_n_steps": 100},
    "bf16-true": {"max_epochs": 2, "precision": "bf16-true", "log_every_n_steps": 100},
    "64-true": {"max_epochs": 2, "precision": "64-true", "log_every_n_steps": 100},
}


class Events(pl.Callback):
    """Where validations and checkpoints happened, and what was to be seen there; ``asks`` for no single step."""

    def __init__(self):
        self.seen = []

    def _see(self, trainer, what):
        loop = trainer.fit_loop.epoch_loop
        self.seen.append(
            (what, trainer.global_step, trainer.current_epoch, loop.batch_idx, loop.total_batch_idx, loop.global_step)
        )

    def on_train_epoch_start(self, trainer, pl_module):
        self._see(trainer, "epoch starts")

    def on_train_epoch_end(self, trainer, pl_module):
        self._see(trainer, "epoch ends")

    def on_validation_end(self, trainer, pl_module):
        self._see(trainer, f"validation {trainer.callback_metrics['val/loss']:.9f}")

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self._see(trainer, "checkpoint")


class Steps(pl.Callback):
    """The minibatches that Lightning saw."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((trainer.global_step, batch_idx))


@pytest.fixture
def run(fit):
    def run(recipe, steps_per_execution, *, callbacks=(), **trainer):
        events = Events()
        every_third = ModelCheckpoint(None, "{step}", every_n_train_steps=3, save_top_k=-1)
        model, data = RECIPES[recipe] if isinstance(recipe, str) else recipe
        found = fit(
            model,
            data,
            callbacks=[every_third, *checkpoint_callbacks(), events, *callbacks],
            enable_checkpointing=True,
            steps_per_execution=steps_per_execution,
            **trainer,
        )
        found.events = events.seen
        return found

    return run


def checkpoints(found):
    """Every checkpoint of a run but for the clock and the paths in it."""
    files = {path.name: torch.load(path, weights_only=True) for path in sorted(found.checkpoints.glob("*.ckpt"))}
    for checkpoint in files.values():
        del checkpoint["callbacks"]
    return files


def assert_equal(one, other, where=""):
    """Equal to the last bit, whatever is nested in what."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    else:
        assert one == other, where


def assert_same(one, other):
    assert_equal(dict(one.module.state_dict()), dict(other.module.state_dict()))
    assert one.module.curves.history == other.module.curves.history
    assert one.module.samples_seen == other.module.samples_seen
    assert one.trainer.global_step == other.trainer.global_step
    assert one.events == other.events
    assert_equal(checkpoints(one), checkpoints(other))


@pytest.mark.parametrize("size", [2, 3, 50])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(run, recipe, size):
    one, many = (run(recipe, n, max_epochs=3, log_every_n_steps=4) for n in (1, size))
    assert_same(one, many)
    assert len(one.start.batches) == one.trainer.global_step > len(many.start.batches)


@pytest.mark.parametrize("size", [2, 50])
@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_trainers(run, trainer, size):
    one, many = (run("adam, cosine", n, **trainer) for n in (1, size))
    assert_same(one, many)
    if trainer.get("log_every_n_steps") == 100:
        assert len(one.start.batches) > len(many.start.batches)


def test_gradient_of_the_last_step_is_there(run):
    """Histograms draw it at the end of an epoch, though SGD inside the product does without."""
    one, many = (run("sgd inside the product", n, log_every_n_steps=100) for n in (1, 50))
    assert torch.equal(one.module.network.flat_grad, many.module.network.flat_grad)
    assert many.module.network.flat_grad.any()


@pytest.mark.parametrize("size", [2, 50])
@pytest.mark.parametrize("step", [3, 6, 12])
def test_resuming(run, step, size):
    settings = {"max_epochs": 4, "log_every_n_steps": 4}
    straight = run("adam, cosine", 1, **settings)
    path = straight.checkpoints / f"step={step}.ckpt"
    one, many = (run("adam, cosine", n, ckpt_path=path, **settings) for n in (1, size))
    for resumed in (one, many):
        assert_equal(dict(resumed.module.state_dict()), dict(straight.module.state_dict()))
        assert resumed.module.curves.history == straight.module.curves.history
    assert_same(one, many)


def test_what_was_pending_is_recorded_though_nothing_is_left_to_train(fit):
    settings = {"max_epochs": -1, "max_steps": 3, "limit_val_batches": 0, "enable_checkpointing": True}
    every_third = [ModelCheckpoint(None, "{step}", every_n_train_steps=3, save_top_k=-1) for _ in range(2)]
    straight = fit(callbacks=every_third[:1], **settings)
    resumed = fit(callbacks=every_third[1:], ckpt_path=straight.checkpoints / "step=3.ckpt", **settings)
    assert straight.module.curves.history["train/loss"][0] == [2, 3]
    assert resumed.module.curves.history == straight.module.curves.history


def test_early_stopping(run):
    settings = {"max_epochs": 50, "log_every_n_steps": 100}
    model = {"optimizer": "sgd", "lr": 1.0}
    one, many = (run((model, {}), n, callbacks=[EarlyStopping("val/loss", patience=2)], **settings) for n in (1, 50))
    assert one.trainer.current_epoch < 50
    assert_same(one, many)


def test_logs(run, tmp_path):
    texts = []
    for size in (1, 50):
        logger = CSVLogger(tmp_path / f"{size}")
        callbacks = [Health(), LearningRateMonitor("step")]
        run("adam, cosine", size, callbacks=callbacks, logger=logger, max_epochs=4, log_every_n_steps=4)
        (path,) = (tmp_path / f"{size}").rglob("metrics.csv")
        texts.append(path.read_text())
    assert texts[0] == texts[1]
    assert "health/update_ratio" in texts[0]
    assert "lr-Adam" in texts[0]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "numbers wait, as on a GPU"])
@pytest.mark.parametrize("trainer", [{}, {"accumulate_grad_batches": 2}], ids=["", "accumulated"])
def test_records_within_a_group(make_parts, tmp_path, monkeypatch, waits, trainer):
    texts, lightnings_steps = [], []
    for size in (1, 50):
        logger = CSVLogger(tmp_path / f"{size}")
        settings = {"max_epochs": 4, "limit_val_batches": 0, "steps_per_execution": size, **trainer}
        parts = make_parts(callbacks=[Health()], logger=logger, log_every_n_steps=2, **settings)
        on_train_start = parts.module.on_train_start

        def wait(module=parts.module, on_train_start=on_train_start):
            on_train_start()
            module.readings.waits = waits

        monkeypatch.setattr(parts.module, "on_train_start", wait)
        parts.trainer.fit(parts.module, parts.data)
        (path,) = (tmp_path / f"{size}").rglob("metrics.csv")
        texts.append(path.read_text())
        lightnings_steps.append(len(parts.start.batches))
    assert texts[0] == texts[1]
    assert "health/update_ratio" in texts[0]
    # The last of each epoch.
    assert lightnings_steps == [20, 4]


@pytest.mark.parametrize(("log_every_n_steps", "makes_many"), [(1, True), (1000, False)])
def test_groups_last_a_tenth_of_a_second_where_nobody_says(make_parts, monkeypatch, log_every_n_steps, makes_many):
    parts = make_parts(data={"batch_size": 3}, max_epochs=1, limit_val_batches=0, log_every_n_steps=log_every_n_steps)
    # By a clock of which each step takes 0.03 seconds.
    monkeypatch.setattr(
        "mlp_lightning.training.groups.time.perf_counter", lambda: 0.03 * (parts.module.samples_seen // 3)
    )
    monkeypatch.setattr("mlp_lightning.training.groups.wants_every_step", lambda callback: False)
    monkeypatch.setattr(MLPModule, "makes_many", makes_many)
    parts.trainer.fit(parts.module, parts.data)
    # Of 24 minibatches four at a time begin within it, and one is Lightning's.
    assert len(parts.start.batches) == 5


@pytest.mark.parametrize("kind", [TQDMProgressBar, GroupProgressBar])
@pytest.mark.parametrize("refresh_rate", [1, 2])
def test_progress_bar_ends_where_it_should(run, refresh_rate, kind):
    bars = []
    for size in (1, 50):
        bar = kind(refresh_rate=refresh_rate)
        run("adam, cosine", size, callbacks=[bar], enable_progress_bar=True, max_epochs=2, log_every_n_steps=100)
        bars.append((bar.train_progress_bar.n, bar.train_progress_bar.total, bar.train_progress_bar.postfix))
    assert bars[0] == bars[1]
    assert bars[0][:2] == (5, 5)


@pytest.mark.parametrize(
    ("refresh_rate", "size", "expected"),
    [
        pytest.param(2, 1, [2, 4, 5], id="as Lightning's"),
        pytest.param(2, 3, [3, 5], id="a group is longer"),
        pytest.param(3, 2, [4, 5], id="a group ends elsewhere"),
        pytest.param(50, 2, [5], id="rarer than an epoch"),
    ],
)
def test_progress_bar_is_refreshed_once_so_many_steps_have_passed(fit, monkeypatch, refresh_rate, size, expected):
    shown = []
    bar = GroupProgressBar(refresh_rate=refresh_rate)
    monkeypatch.setattr(bar, "get_metrics", lambda *args: shown.append(bar.train_progress_bar.n) or {})
    settings = {"max_epochs": 1, "log_every_n_steps": 100, "limit_val_batches": 0, "steps_per_execution": size}
    fit(callbacks=[bar], enable_progress_bar=True, **settings)
    # The end of the epoch shows its figures once more.
    assert shown == [*expected, 5]


def test_interrupted_in_a_group_the_counters_are_those_of_the_steps_made(run, monkeypatch):
    made = []
    hand_step = MLPModule.hand_step

    def interrupted(self, batch, step, **options):
        if step == 7:
            raise KeyboardInterrupt
        made.append(step)
        hand_step(self, batch, step, **options)

    monkeypatch.setattr(MLPModule, "hand_step", interrupted)
    monkeypatch.setattr(MLPModule, "makes_many", False)
    loops = []

    class Look(pl.Callback):
        def on_exception(self, trainer, pl_module, exception):
            loops.append(trainer.fit_loop.epoch_loop)

    with pytest.raises(SystemExit):
        run("adam, cosine", 50, callbacks=[Look()], max_epochs=3, log_every_n_steps=100)
    (loop,) = loops
    assert made == list(range(7))
    assert loop.global_step == loop.batch_progress.total.completed == 7


def test_a_callback_that_may_want_every_step_sees_every_step(fit):
    steps = Steps()
    fit(callbacks=[steps], max_epochs=2)
    assert steps.seen == list(zip(range(1, 11), itertools.chain(range(5), range(5)), strict=True))


def test_groups_end_where_they_must(fit):
    steps = Steps()
    fit(callbacks=[steps], max_epochs=2, log_every_n_steps=4, steps_per_execution=3)
    assert [step for step, _ in steps.seen] == [3, 5, 8, 10]


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (Steps(), True),
        (Events(), False),
        (Health(), False),
        (Histograms(), False),
        (ModelCheckpoint(), False),
        (EarlyStopping("val/loss"), False),
        (TQDMProgressBar(), False),
        (LearningRateMonitor(), False),
        (Timer("00:01:00:00"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wants_every_step(callback, expected):
    assert wants_every_step(callback) is expected


@pytest.mark.parametrize("size", [0, -1])
def test_size_below_one_is_refused(size):
    with pytest.raises(UserError, match=f"trainer.steps_per_execution: got {size}, must be at least 1"):
        Trainer(accelerator="cpu", logger=False, steps_per_execution=size)
