"""Callbacks of Lightning in a fit: each works, or is refused in one line that names the option to use."""

from datetime import timedelta

import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    RichModelSummary,
    StochasticWeightAveraging,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner

from mlp_lightning.errors import UserError
from mlp_lightning.training.callback_options import as_list
from mlp_lightning.training.module import MLPModule

REFUSED = {
    "swa": (StochasticWeightAveraging, {"swa_lrs": 0.1}, "use model.averaging swa"),
    "averages": (WeightAveraging, {}, "use model.averaging ema or swa"),
    "ema": (EMAWeightAveraging, {}, "use model.averaging ema"),
    "accumulation": (GradientAccumulationScheduler, {"scheduling": {1: 2}}, "use trainer.accumulate_grad_batches"),
    "learning rate": (LearningRateFinder, {}, "use the command compare on configs with several values of model.lr"),
    "batch size": (BatchSizeFinder, {}, "use data.batch_size"),
    "pruning": (ModelPruning, {"pruning_fn": "l1_unstructured"}, "use model.l1"),
    "finetuning": (BackboneFinetuning, {}, "leave it out"),
}


@pytest.mark.parametrize("is_subclass", [False, True])
@pytest.mark.parametrize(("kind", "options", "advice"), REFUSED.values(), ids=REFUSED)
def test_refused(make_parts, kind, options, advice, is_subclass):
    cls = type("Own", (kind,), {}) if is_subclass else kind
    parts = make_parts(callbacks=[cls(**options)])
    with pytest.raises(UserError, match=rf"^trainer\.callbacks: got {cls.__name__}, .*; {advice}"):
        parts.trainer.fit(parts.module, parts.data)


@pytest.mark.parametrize("method", ["lr_find", "scale_batch_size"])
def test_the_tuner_is_refused(make_parts, method):
    parts = make_parts()
    with pytest.raises(UserError, match=r"^trainer\.callbacks: got (LearningRateFinder|BatchSizeFinder)"):
        getattr(Tuner(parts.trainer), method)(parts.module, datamodule=parts.data)


@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
@pytest.mark.parametrize(
    ("monitor", "meant"),
    [
        ("val_loss", "val/loss"),
        ("val_accuracy", "val/accuracy"),
        ("val_acc", "val/accuracy"),
        ("Val/loss", "val/loss"),
        ("train_loss", "train/loss"),
    ],
)
def test_a_monitor_by_another_name(make_parts, kind, monitor, meant):
    parts = make_parts(callbacks=[kind(monitor=monitor)], enable_checkpointing=True)
    # WeightsAtStart is not Lightning's, and might log anything.
    parts.trainer.callbacks.remove(parts.start)
    message = (
        rf"^trainer\.callbacks: got {kind.__name__} with monitor {monitor}, did you mean {meant}\? There are train/loss"
    )
    with pytest.raises(UserError, match=message):
        parts.trainer.fit(parts.module, parts.data)
    assert parts.trainer.global_step == 0


def test_a_monitor_that_nothing_gives(make_parts):
    for monitor, settings in (("foo", {}), ("val/loss", {"limit_val_batches": 0}), ("train/vat", {})):
        parts = make_parts(callbacks=[EarlyStopping(monitor=monitor)], **settings)
        parts.trainer.callbacks.remove(parts.start)
        with pytest.raises(UserError, match=f"with monitor {monitor}"):
            parts.trainer.fit(parts.module, parts.data)


def test_monitors_that_are_given(make_parts, tmp_path):
    callbacks = [
        *(
            EarlyStopping(monitor=name)
            for name in ("val/loss", "val/accuracy", "val/raw_loss", "train/vat", "train/loss")
        ),
        ModelCheckpoint(monitor="step", mode="max"),
        ModelCheckpoint(monitor="val/raw_accuracy", filename="{epoch}"),
        LearningRateMonitor("step"),
        EarlyStopping(monitor="lr-Adam", mode="min"),
    ]
    parts = make_parts(
        {"averaging": "ema", "vat": 0.1},
        callbacks=callbacks,
        enable_checkpointing=True,
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
    )
    parts.trainer.callbacks.remove(parts.start)
    parts.trainer.fit(parts.module, parts.data)
    assert parts.trainer.global_step == 10


def test_metrics_of_ones_own_can_be_monitored(make_parts):
    class Logs(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("mine", 1.0)

    class OwnModule(MLPModule):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            self.log("mine", 1.0)

    for callbacks, kind in (([Logs()], MLPModule), ([], OwnModule)):
        parts = make_parts(callbacks=[*callbacks, EarlyStopping(monitor="mine")])
        if not callbacks:
            parts.trainer.callbacks.remove(parts.start)
        parts.trainer.fit(kind(hidden=[7, 5]), parts.data)
        assert parts.trainer.global_step == 10


@pytest.mark.parametrize("interval", [timedelta(0), timedelta(minutes=5)])
def test_checkpoints_by_the_clock_are_refused(make_parts, interval):
    callback = ModelCheckpoint(train_time_interval=interval)
    parts = make_parts(callbacks=[callback], enable_checkpointing=True)
    with pytest.raises(
        UserError, match=r"^trainer\.callbacks: got ModelCheckpoint with train_time_interval, .* use every_"
    ):
        parts.trainer.fit(parts.module, parts.data)


@pytest.mark.filterwarnings("ignore:.*was called without a model:UserWarning")
@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint:UserWarning")
@pytest.mark.parametrize("begins", [True, False])
def test_an_exception_is_told_whether_or_not_it_leaves_a_checkpoint(make_parts, tmp_path, begins):
    class Fails(Callback):
        def setup(self, trainer, pl_module, stage):
            if not begins:
                raise KeyError("mine")

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                raise KeyError("mine")

    parts = make_parts(callbacks=[Fails(), OnExceptionCheckpoint(tmp_path)], enable_checkpointing=True)
    with pytest.raises(KeyError, match="mine"):
        parts.trainer.fit(parts.module, parts.data)
    if begins:
        assert torch.load(tmp_path / "on_exception.ckpt", weights_only=True)["global_step"] == 3


def test_a_bar_of_ones_own_is_the_only_one(make_parts):
    bar = TQDMProgressBar()
    parts = make_parts(callbacks=[bar], enable_progress_bar=True)
    assert parts.trainer.progress_bar_callback is bar


def test_as_list():
    assert as_list(None) == []
    assert as_list("one") == ["one"]
    assert as_list(["one", "two"]) == ["one", "two"]


@pytest.mark.parametrize("averaging", ["none", "ema"])
@pytest.mark.parametrize("given", [False, True])
def test_the_summary_counts_the_weights(make_parts, caplog, monkeypatch, averaging, given):
    seen = []
    # Lightning takes rich's where rich is installed.
    for kind in (ModelSummary, RichModelSummary):
        monkeypatch.setattr(
            kind, "summarize", staticmethod(lambda data, total, trainable, *args, **kwargs: seen.append(trainable))
        )
    callbacks = [ModelSummary()] if given else []
    parts = make_parts({"averaging": averaging}, callbacks=callbacks, enable_model_summary=True, max_epochs=1)
    parts.trainer.fit(parts.module, parts.data)
    assert seen == [12 * 7 + 7 + 7 * 5 + 5 + 5 * 4 + 4]


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train:UserWarning")
@pytest.mark.parametrize(("overfit", "same"), [(2, True), (3, True), (0.0, False)])
def test_overfitting_takes_the_same_minibatches_in_every_epoch(make_parts, overfit, same):
    parts = make_parts(overfit_batches=overfit, max_epochs=2)
    parts.trainer.fit(parts.module, parts.data)
    batches = [batch.x for batch in parts.start.batches]
    half = len(batches) // 2
    assert half == (overfit or 5)
    pairs = zip(batches[:half], batches[half:], strict=True)
    assert all(torch.equal(one, other) for one, other in pairs) is same


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train:UserWarning")
@pytest.mark.parametrize(("overfit", "part"), [(0.1, "5 train"), (0.01, "5 train"), (0.4, "1 val")])
def test_too_small_a_share_to_overfit_is_told_by_its_name(make_parts, overfit, part):
    parts = make_parts(overfit_batches=overfit)
    with pytest.raises(
        UserError, match=rf"^trainer\.overfit_batches: got {overfit}, less than one of the {part} minib"
    ):
        parts.trainer.fit(parts.module, parts.data)
