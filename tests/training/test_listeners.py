"""Whoever listens to single steps hears what Lightning's automatic loop would tell, of every step and in its order."""

import functools
import types

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ThroughputMonitor,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.nn import functional as F
from torch.optim import optimizer as torch_optimizer

from mlp_lightning.data.module import DataModule
from mlp_lightning.training.callbacks.progress_bar import GroupProgressBar
from mlp_lightning.training.groups import wants_every_step
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.quiet import quiet_lightning

CALLBACK_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
MODULE_HOOKS = (
    *CALLBACK_HOOKS,
    "training_step",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "on_before_batch_transfer",
    # Not transfer_batch_to_device: the data module has one, and Lightning takes it before the module's.
    "on_after_batch_transfer",
)
# 70 samples in minibatches of 16 are five steps an epoch.
STEPS = 10
MODELS = {"adam": {}, "sgd in the product": {"optimizer": "sgd", "lr": 0.05}}


def noting(hook, seen, who):
    return lambda *args, **kwargs: seen.append((who, hook))


class Automatic(pl.LightningModule):
    """An ordinary module, whose steps Lightning makes by autograd."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(12, 4)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def listening(kind, seen, hooks=MODULE_HOOKS):
    """A subclass of a module whose hooks note that they are called, and do what the class does."""

    def override(hook):
        own = getattr(kind, hook)

        @functools.wraps(own)
        def method(self, *args, **kwargs):
            # A sanity check or validation transfers batches too.
            if "transfer" not in hook or self.trainer.training:
                seen.append(("module", hook))
            return own(self, *args, **kwargs)

        return method

    return type("Listening", (kind,), {hook: override(hook) for hook in hooks})


@pytest.fixture
def fit_automatically(tmp_path):
    def run(seen, accumulate):
        parts = torch.utils.data.TensorDataset(torch.rand(70, 12), torch.randint(4, (70,)))
        quiet_lightning()
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            accumulate_grad_batches=accumulate,
            callbacks=[LambdaCallback(**{hook: noting(hook, seen, "callback") for hook in CALLBACK_HOOKS})],
        )
        trainer.fit(listening(Automatic, seen)(), torch.utils.data.DataLoader(parts, batch_size=16))

    return run


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_hooks_are_called_as_by_the_automatic_loop(make_parts, fit_automatically, model, accumulate):
    expected, seen = [], []
    fit_automatically(expected, accumulate)
    callback = LambdaCallback(**{hook: noting(hook, seen, "callback") for hook in CALLBACK_HOOKS})
    parts = make_parts(callbacks=[callback], accumulate_grad_batches=accumulate, limit_val_batches=0)
    parts.trainer.fit(listening(MLPModule, seen)(hidden=[7, 5], **model), parts.data)
    # Autograd's loop makes its steps within optimizer_step, and a step by hand is made within training_step.
    within = ("training_step", "optimizer_step")

    def order(calls):
        return [call for call in calls if call[1] not in within]

    assert order(seen) == order(expected)
    counts = [sum(call == ("module", hook) for call in seen) for hook in MODULE_HOOKS]
    by_automatic = [sum(call == ("module", hook) for call in expected) for hook in MODULE_HOOKS]
    assert counts == by_automatic


@pytest.mark.parametrize("hook", MODULE_HOOKS)
def test_each_hook_of_a_module_is_enough(make_parts, hook):
    seen = []
    parts = make_parts(limit_val_batches=0)
    parts.trainer.callbacks.clear()
    parts.trainer.fit(listening(MLPModule, seen, [hook])(hidden=[7, 5]), parts.data)
    assert seen == [("module", hook)] * STEPS


@pytest.mark.parametrize("hook", CALLBACK_HOOKS)
def test_each_hook_of_a_callback_is_enough(make_parts, hook):
    seen = []
    parts = make_parts(limit_val_batches=0)
    parts.trainer.callbacks[:] = [LambdaCallback(**{hook: noting(hook, seen, "callback")})]
    parts.trainer.fit(parts.module, parts.data)
    assert seen == [("callback", hook)] * STEPS


@pytest.mark.parametrize("hook", CALLBACK_HOOKS)
def test_a_hook_set_on_the_module_is_called(make_parts, hook):
    seen = []
    parts = make_parts(limit_val_batches=0)
    parts.trainer.callbacks.clear()
    setattr(parts.module, hook, noting(hook, seen, "module"))
    parts.trainer.fit(parts.module, parts.data)
    assert len(seen) == STEPS


KINDS = {
    "ModelCheckpoint": (ModelCheckpoint, {}),
    "TQDMProgressBar": (TQDMProgressBar, {}),
    "GroupProgressBar": (GroupProgressBar, {}),
    "Timer": (Timer, {"duration": "00:01:00:00"}),
    "LearningRateMonitor": (LearningRateMonitor, {}),
}


@pytest.mark.parametrize("on_instance", [False, True], ids=["subclass", "instance"])
@pytest.mark.parametrize("hook", CALLBACK_HOOKS)
@pytest.mark.parametrize(("kind", "options"), KINDS.values(), ids=KINDS)
def test_hooks_added_to_lightnings_callbacks_count(kind, options, hook, on_instance):
    def added(self, *args):
        getattr(super(type(self), self), hook)(*args)

    assert not wants_every_step(kind(**options))
    assert not wants_every_step(type("Same", (kind,), {"on_train_epoch_end": lambda self, *args: None})(**options))
    if on_instance:
        callback = kind(**options)
        setattr(callback, hook, types.MethodType(added, callback))
    else:
        callback = type("Other", (kind,), {hook: added})(**options)
    assert wants_every_step(callback)


@pytest.mark.parametrize(("kind", "options"), list(KINDS.values())[:4], ids=list(KINDS)[:4])
def test_a_subclass_of_lightnings_callback_sees_every_step(make_parts, kind, options):
    class Own(kind):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            seen.append(trainer.global_step)

    seen = []
    settings = {"enable_progress_bar": "Bar" in kind.__name__, "enable_checkpointing": kind is ModelCheckpoint}
    parts = make_parts(callbacks=[Own(**options)], **settings)
    parts.trainer.fit(parts.module, parts.data)
    assert seen == list(range(1, STEPS + 1))


def test_minus_one_ends_the_epoch(make_parts):
    class Short(MLPModule):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 else None

    parts = make_parts(limit_val_batches=0)
    parts.trainer.callbacks.clear()
    parts.trainer.fit(Short(hidden=[7, 5]), parts.data)
    # Two steps in each of two epochs.
    assert parts.trainer.global_step == 4


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_gradient_and_the_loss_are_there(make_parts, dataset, torch_network, model):
    found = []

    class Look(pl.Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            self.loss, self.weights = loss, {k: v.clone() for k, v in pl_module.network.state_dict().items()}

        def on_after_backward(self, trainer, pl_module):
            self.after = pl_module.network.flat.grad.clone()

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            (parameter,) = optimizer.param_groups[0]["params"]
            self.before = parameter.grad.clone()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            gradients = (self.after, self.before, pl_module.network.flat.grad.clone())
            found.append((self.weights, batch, gradients, (self.loss, outputs["loss"])))

    parts = make_parts(model, callbacks=[Look()], precision="64-true", limit_val_batches=0)
    parts.trainer.fit(parts.module, parts.data)
    assert len(found) == STEPS
    for weights, batch, gradients, losses in found:
        network = torch_network(weights)
        loss = F.cross_entropy(network(batch.x.double()), batch.y)
        loss.backward()
        layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
        flat = [p.grad.flatten() for name in ("weight", "bias") for p in (getattr(layer, name) for layer in layers)]
        for gradient in gradients:
            torch.testing.assert_close(gradient, torch.cat(flat), rtol=1e-9, atol=1e-11)
        for one in losses:
            assert float(one) == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_gradient_is_there_without_hooks_around_it(make_parts, model):
    found = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            found.append((pl_module.network.flat.grad.clone(), pl_module.network.flat_grad.clone()))

    parts = make_parts(model, callbacks=[Look()])
    parts.trainer.fit(parts.module, parts.data)
    assert len(found) == STEPS
    assert all(torch.equal(*pair) and pair[0].any() for pair in found)


def halve_in_place(parameter):
    parameter.grad.mul_(0.5)


def halve_anew(parameter):
    parameter.grad = parameter.grad * 0.5


@pytest.mark.parametrize("change", [halve_in_place, halve_anew])
@pytest.mark.parametrize("hook", ["on_after_backward", "on_before_optimizer_step"])
def test_what_a_hook_does_to_the_gradient_enters_the_update(make_parts, hook, change):
    """Half of the gradient is half of the step of plain SGD."""
    halved = LambdaCallback(**{hook: lambda trainer, module, *args: change(module.network.flat)})
    settings = {"precision": "64-true", "limit_val_batches": 0}
    one = make_parts({"optimizer": "sgd", "lr": 0.1}, callbacks=[halved], **settings)
    other = make_parts({"optimizer": "sgd", "lr": 0.05}, **settings)
    for parts in (one, other):
        parts.trainer.fit(parts.module, parts.data)
    torch.testing.assert_close(one.module.network.flat, other.module.network.flat, rtol=1e-12, atol=1e-12)


def test_a_gradient_that_is_taken_away_changes_nothing(make_parts):
    taken = LambdaCallback(on_before_optimizer_step=lambda trainer, module, optimizer: optimizer.zero_grad())
    parts = make_parts({"clip_norm": 1.0}, callbacks=[taken], limit_val_batches=0)
    parts.trainer.fit(parts.module, parts.data)
    assert torch.equal(
        torch.cat([parts.start.weights[f"layers.{k}.weight"].flatten() for k in range(3)]),
        parts.module.network.flat[: parts.module.network.weight_numel],
    )


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("of_all", [False, True], ids=["of one", "of all"])
def test_hooks_of_the_optimizer(make_parts, model, of_all):
    seen = []

    def register(trainer, module):
        (optimizer,) = trainer.optimizers
        pre = torch_optimizer.register_optimizer_step_pre_hook if of_all else optimizer.register_step_pre_hook
        post = torch_optimizer.register_optimizer_step_post_hook if of_all else optimizer.register_step_post_hook
        handles.extend((pre(lambda *args: seen.append("pre")), post(lambda *args: seen.append("post"))))

    handles = []
    try:
        parts = make_parts(model, limit_val_batches=0)
        parts.trainer.callbacks[:] = [LambdaCallback(on_train_start=register)]
        parts.trainer.fit(parts.module, parts.data)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == ["pre", "post"] * STEPS


def test_optimizer_step_decides_on_the_update(make_parts):
    class EverySecond(MLPModule):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            loss = optimizer_closure()
            assert loss.ndim == 0
            if batch_idx % 2 == 0:
                optimizer.step()

    settings = {"limit_val_batches": 0, "max_epochs": 1}
    parts = make_parts(**settings)
    module = EverySecond(hidden=[7, 5], optimizer="adam")
    parts.trainer.fit(module, parts.data)
    (state,) = parts.trainer.optimizers[0].state.values()
    assert state["step"] == 3
    assert parts.trainer.global_step == 5


def test_a_listener_does_not_change_the_training(make_parts):
    found = []
    for callbacks in ([], [LambdaCallback(on_after_backward=lambda trainer, module: None)]):
        parts = make_parts({"norm": "batch", "dropout": 0.2}, callbacks=callbacks)
        parts.trainer.fit(parts.module, parts.data)
        found.append(parts.module.network.flat.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("group", [1, 50])
def test_a_module_of_its_own_is_asked_whatever_the_size_of_groups(make_parts, group):
    seen = []
    parts = make_parts(limit_val_batches=0, steps_per_execution=group)
    parts.trainer.fit(listening(MLPModule, seen, ["training_step"])(hidden=[7, 5]), parts.data)
    assert len(seen) == STEPS


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device"])
def test_hooks_of_the_data(make_parts, dataset, hook):
    seen = []
    own = getattr(DataModule, hook)

    def method(self, batch, *args, **kwargs):
        seen.append(hook)
        return own(self, batch, *args, **kwargs)

    parts = make_parts(limit_val_batches=0)
    data = type("Own", (DataModule,), {hook: method})(batch_size=16, validation_size=20)
    data._data = dataset
    parts.trainer.callbacks.clear()
    parts.trainer.fit(parts.module, data)
    assert seen == [hook] * STEPS


def test_a_strategy_of_its_own(make_parts):
    class Own(SingleDeviceStrategy):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(batch_idx)

    seen = []
    parts = make_parts(limit_val_batches=0, strategy=Own(device=torch.device("cpu")))
    parts.trainer.callbacks.clear()
    parts.trainer.fit(parts.module, parts.data)
    assert seen == [*range(5), *range(5)]


def test_a_profile_counts_every_step(make_parts):
    profiler = SimpleProfiler()
    parts = make_parts(limit_val_batches=0, profiler=profiler)
    parts.trainer.callbacks.clear()
    parts.trainer.fit(parts.module, parts.data)
    assert len(profiler.recorded_durations["run_training_batch"]) == STEPS


def test_what_nobody_calls_is_told_once(make_parts, capsys):
    class Own(MLPModule):
        def backward(self, loss):
            raise AssertionError

        def lr_scheduler_step(self, scheduler, metric):
            raise AssertionError

    parts = make_parts(limit_val_batches=0)
    module = Own(hidden=[7, 5])
    network_hook = LambdaCallback(
        on_fit_start=lambda trainer, module: module.network.register_forward_hook(lambda *args: None)
    )
    parts.trainer.callbacks[:] = [network_hook]
    parts.trainer.fit(module, parts.data)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Own: ")]
    assert lines == [
        "Own: backward, lr_scheduler_step, hooks registered on the network: not called in the training, "
        "whose steps are derived by hand"
    ]


def test_lightnings_monitors_of_steps(make_parts, tmp_path):
    pytest.importorskip("psutil")
    logger = CSVLogger(tmp_path)
    callbacks = [DeviceStatsMonitor()]
    parts = make_parts(callbacks=callbacks, logger=logger, log_every_n_steps=1, limit_val_batches=0)
    parts.trainer.fit(parts.module, parts.data)


@pytest.mark.filterwarnings("ignore:.*flops_per_batch:UserWarning")
def test_throughput_monitor_counts_every_sample(make_parts, tmp_path):
    monitor = ThroughputMonitor(batch_size_fn=lambda batch: len(batch.y), window_size=20)
    parts = make_parts(callbacks=[monitor], logger=CSVLogger(tmp_path), log_every_n_steps=1, limit_val_batches=0)
    parts.trainer.fit(parts.module, parts.data)
    (samples,) = {key: value for key, value in monitor._samples.items() if value}.values()
    assert samples == 2 * 70
