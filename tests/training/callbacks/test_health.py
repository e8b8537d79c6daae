"""The health callback in real trainings: what it logs, that it changes nothing, and which trainings it warns of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.quiet import quiet_lightning

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
LAYERS = 3
EVERY_LAYER = {
    f"{quantity}/layer {k}"
    for quantity in (
        "delta_mean_abs",
        "delta_rms",
        "gradient_norm",
        "update_norm",
        "update_ratio",
        "weight_norm",
    )
    for k in range(LAYERS)
}
WHOLE = {"mean_gradient_norm", "sample_gradient_norm/max", "sample_gradient_norm/mean", "sample_gradient_norm/rms"}


class Watch(pl.Callback):
    """Keeps the weights and the gradient around every step."""

    def __init__(self) -> None:
        self.before: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        self.after: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before.append(pl_module.network.flat.clone())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.gradients.append(pl_module.network.flat_grad.clone())
        self.after.append(pl_module.network.flat.clone())


@pytest.fixture
def watched(fit, tmp_path):
    """A training with the callback, its event file, and the steps as others saw them."""

    def run(model=None, data=None, *, before=(), **trainer):
        watch = Watch()
        logger = TensorBoardLogger(tmp_path, name="run")
        parts = fit(model, data, callbacks=[*before, Health(), watch], logger=logger, **trainer)
        logger.finalize("success")
        parts.watch = watch
        parts.events = events_in(logger.log_dir)
        return parts

    return run


def events_in(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def health_tags(events: EventAccumulator) -> set[str]:
    return {tag.removeprefix("health/") for tag in events.Tags()["scalars"] if tag.startswith("health/")}


def logged(events: EventAccumulator, name: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(f"health/{name}")}


@pytest.mark.parametrize(
    ("activation", "per_unit"),
    [("relu", {"dead"}), ("sigmoid", {"dead", "saturated"}), ("tanh", {"dead", "saturated"})],
)
def test_tags(watched, activation, per_unit):
    tags = health_tags(watched({"activation": activation}).events)
    hidden = {f"{quantity}/layer {k}" for quantity in per_unit for k in range(LAYERS - 1)}
    assert tags - {"noise_scale"} == EVERY_LAYER | WHOLE | hidden


def test_records_are_those_of_the_curves(watched):
    parts = watched(log_every_n_steps=3)
    steps = [event.step for event in parts.events.Scalars("train/loss")]
    assert parts.trainer.global_step == 10
    assert steps == [3, 6, 9, 10]
    for tag in health_tags(parts.events) - {"noise_scale"}:
        # The curves' last record only empties a window; no step of its own is measured for it.
        assert list(logged(parts.events, tag)) == [3, 6, 9]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("clip_norm", [None, 1e-3], ids=["unclipped", "clipped"])
def test_figures_are_autograds(watched, torch_network, loss, reduction, clip_norm):
    parts = watched({"loss": loss, "reduction": reduction, "clip_norm": clip_norm, "lr": 0.01})
    network = parts.module.network
    step = 4
    batch = parts.start.batches[step - 1]
    network.flat.copy_(parts.watch.before[step - 1])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    reference = torch_network(before)

    def gradients(rows):
        logits = reference(batch.x[rows])
        if loss == "mse":
            value = F.mse_loss(logits, F.one_hot(batch.y[rows], 4).float(), reduction=reduction)
        else:
            value = F.cross_entropy(logits, batch.y[rows], reduction=reduction)
        return torch.autograd.grad(value, list(reference.parameters()))

    whole = gradients(slice(None))
    network.flat.copy_(parts.watch.after[step - 1])
    norm_of_all = torch.cat([gradient.flatten() for gradient in whole]).norm()
    shortening = 1.0 if clip_norm is None else clip_norm / norm_of_all
    expected = {}
    for k in range(LAYERS):
        update = network.layers[k].weight - before[f"layers.{k}.weight"]
        expected[f"gradient_norm/layer {k}"] = whole[2 * k].norm() * shortening
        expected[f"weight_norm/layer {k}"] = before[f"layers.{k}.weight"].norm()
        expected[f"update_norm/layer {k}"] = update.norm()
        expected[f"update_ratio/layer {k}"] = update.norm() / before[f"layers.{k}.weight"].norm()
    singles = torch.stack(
        [torch.cat([gradient.flatten() for gradient in gradients(slice(i, i + 1))]) for i in range(len(batch.y))]
    )
    expected["sample_gradient_norm/mean"] = singles.norm(dim=1).mean()
    expected["sample_gradient_norm/max"] = singles.norm(dim=1).max()
    expected["mean_gradient_norm"] = singles.mean(0).norm()
    for name, value in expected.items():
        assert logged(parts.events, name)[step] == pytest.approx(float(value), rel=1e-3), name


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weighted_samples_make_up_the_gradient_of_the_step(watched, reduction):
    parts = watched({"class_weights": [1.0, 2.0, 3.0, 40.0], "label_smoothing": 0.1, "reduction": reduction})
    for step, logged_norm in logged(parts.events, "mean_gradient_norm").items():
        n_samples = len(parts.start.batches[step - 1].y)
        expected = parts.watch.gradients[step - 1].norm() / (1 if reduction == "mean" else n_samples)
        assert logged_norm == pytest.approx(float(expected), rel=1e-4)


def test_deltas_do_not_depend_on_the_reduction(watched):
    # A learning rate of 0: both trainings see the same weights at every step.
    runs = [watched({"reduction": reduction, "lr": 0.0}).events for reduction in ("mean", "sum")]
    for k in range(LAYERS):
        for quantity in ("delta_rms", "delta_mean_abs"):
            mean, total = (list(logged(events, f"{quantity}/layer {k}").values()) for events in runs)
            assert mean == pytest.approx(total, rel=1e-4)


def test_noise_scale_follows_from_the_logged_norms(watched):
    events = watched({"lr": 0.0}, {"batch_size": 10}, log_every_n_steps=1, max_epochs=1).events
    squares = [value**2 for value in logged(events, "sample_gradient_norm/rms").values()]
    of_means = [value**2 for value in logged(events, "mean_gradient_norm").values()]
    signal = noise = 0.0
    found = {}
    for step, (square, of_mean) in enumerate(zip(squares, of_means, strict=True), 1):
        signal, noise = 0.9 * signal + of_mean - (square - of_mean) / 9, 0.9 * noise + (square - of_mean) * 10 / 9
        if signal > 0:
            found[step] = noise / signal
    assert found
    assert logged(events, "noise_scale") == pytest.approx(found, rel=1e-4)


RECIPES = [
    pytest.param({"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01}, {}, id="sgd"),
    pytest.param({"optimizer": "adam", "clip_norm": 0.1, "schedule": "cosine"}, {}, id="adam"),
    pytest.param(
        {"reduction": "sum", "optimizer": "adam_norm"}, {"validation": "per_batch", "shuffle": False}, id="sum"
    ),
    pytest.param({"class_weights": [1.0, 2.0, 3.0, 4.0], "label_smoothing": 0.1}, {}, id="weighted"),
    pytest.param({"loss": "mse", "activation": "sigmoid"}, {"batch_size": 1}, id="one-sample"),
]


@pytest.mark.parametrize(("model", "data"), RECIPES)
def test_the_training_is_bitwise_the_same(fit, model, data):
    states, runs = [], []
    for callbacks in ([], [Health()]):
        watch = Watch()
        torch.manual_seed(7)
        parts = fit(model, data, callbacks=[*callbacks, watch], log_every_n_steps=1)
        states.append(torch.get_rng_state())
        runs.append((parts, watch))
    (without, plain), (with_health, watch) = runs
    assert torch.equal(*states)
    assert torch.equal(without.module.network.flat, with_health.module.network.flat)
    assert without.module.curves.history == with_health.module.curves.history
    assert len(watch.gradients) == len(plain.gradients) > 4
    for ours, theirs in zip(watch.gradients, plain.gradients, strict=True):
        assert torch.equal(ours, theirs), "other callbacks see another gradient"


def test_one_sample_a_minibatch_has_no_noise_scale(watched):
    tags = health_tags(watched(None, {"batch_size": 1}, max_epochs=1).events)
    assert tags >= WHOLE
    assert "noise_scale" not in tags


def test_per_batch_measures_the_samples_that_train(watched):
    parts = watched({"lr": 0.0}, {"validation": "per_batch", "shuffle": False}, log_every_n_steps=1, max_epochs=1)
    batch = parts.start.batches[0]
    assert len(batch.val_y) > 0
    logits, cache = parts.module.network(batch.x)
    parts.module.network.backward(parts.module.loss.backward(parts.module.loss.forward(logits, batch.y)[1]), cache)
    expected = float(parts.module.network.flat_grad.norm()) / len(batch.y)
    assert logged(parts.events, "mean_gradient_norm")[1] == pytest.approx(expected, rel=1e-4)


def test_the_device_is_read_once_a_record(fit, monkeypatch):
    readings: list[str] = []
    counts: list[list[str]] = []

    def counted(name):
        original = getattr(torch.Tensor, name)

        def read(self, *arguments):
            readings.append(name)
            return original(self, *arguments)

        return read

    def counting(hook):
        def run(*arguments):
            readings.clear()
            hook(*arguments)
            counts.append(list(readings))

        return run

    health = Health()
    for name in ("tolist", "item", "__float__", "__bool__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, counted(name))
    for name in ("on_train_batch_start", "on_train_batch_end"):
        monkeypatch.setattr(health, name, counting(getattr(health, name)))
    fit({"activation": "tanh"}, callbacks=[health], log_every_n_steps=2, max_epochs=1)
    assert counts[:4] == [[], [], [], ["tolist"]]


def warnings_of(parts, capsys) -> list[str]:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    text = parts.events.Tags()["tensors"]
    assert ("health/warnings/text_summary" in text) == bool(lines)
    if lines:
        last = parts.events.Tensors("health/warnings/text_summary")[-1].tensor_proto.string_val[0].decode()
        assert last.splitlines() == [f"- {line}" for line in lines]
    return lines


class Before(pl.Callback):
    """Changes the module before a step."""

    def __init__(self, step: int, change: Callable[[MLPModule], Any]) -> None:
        self.step = step
        self.change = change

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MLPModule)
        if trainer.global_step + 1 == self.step:
            self.change(pl_module)


@pytest.mark.parametrize(
    ("model", "change", "expected"),
    [
        pytest.param(
            {"activation": "relu", "init": "zeros"},
            lambda module: None,
            ["layer 0 is vanishing", "layer 0 is dead", "layer 1 is dead"],
            id="zeros",
        ),
        pytest.param(
            {"activation": "relu"},
            lambda module: module.network.layers[1].bias.fill_(-1e3),
            ["layer 0 is vanishing", "layer 1 is dead"],
            id="negative-biases",
        ),
        pytest.param(
            {"activation": "sigmoid", "lr": 1e-5},
            lambda module: module.network.layers[0].weight.mul_(30),
            ["layer 0 is saturated"],
            id="huge-weights",
        ),
        pytest.param(
            {"activation": "sigmoid", "hidden": [5] * 16, "init": "glorot_uniform"},
            lambda module: None,
            ["layer 0 is vanishing"],
            id="deep-sigmoid",
        ),
    ],
)
def test_bad_trainings_are_named(watched, capsys, model, change, expected):
    lines = warnings_of(watched(model, before=[Before(1, change)]), capsys)
    assert [line.removeprefix("warning: ").partition(" at step 2: ")[0] for line in lines] == expected


def test_a_huge_learning_rate_explodes(watched, capsys):
    model = {"activation": "leaky_relu", "loss": "mse", "optimizer": "sgd", "lr": 0.01}
    rise = Before(9, lambda module: module.hparams.update(lr=100.0))
    parts = watched(model, before=[rise], log_every_n_steps=1, max_epochs=2)
    (line,) = [line for line in warnings_of(parts, capsys) if "exploding" in line]
    layer = int(line.removeprefix("warning: layer ").partition(" is exploding at step 10: ")[0])
    norms = logged(parts.events, f"gradient_norm/layer {layer}")
    assert f"gradient is {norms[10]:.3g}, its running median" in line
    assert norms[10] > 100 * max(norms[step] for step in range(1, 10))


@pytest.mark.parametrize("config", ["relu", "adam"])
def test_good_trainings_raise_no_warning(command_line_environment, tmp_path, capsys, config):
    options = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))
    logger = TensorBoardLogger(tmp_path, name=config)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[Health()],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_train_batches=100,
        limit_val_batches=0,
        log_every_n_steps=10,
        logger=logger,
        max_epochs=2,
    )
    with command_line_environment():
        quiet_lightning()
        trainer.fit(MLPModule(**options["model"]), DataModule(**options["data"]))
    logger.finalize("success")
    events = events_in(logger.log_dir)
    assert len(logged(events, "dead/layer 0")) == 20
    assert "health/warnings/text_summary" not in events.Tags()["tensors"]
    assert "warning" not in capsys.readouterr().err
    assert 1 < list(logged(events, "noise_scale").values())[-1] < 10_000


def test_a_training_that_ends_because_it_diverged_tells_the_layer(make_parts, tmp_path, capsys):
    logger = TensorBoardLogger(tmp_path, name="run")
    model = {"activation": "leaky_relu", "loss": "mse", "optimizer": "sgd", "lr": 1e6}
    parts = make_parts(model, callbacks=[Health()], logger=logger, log_every_n_steps=3, max_epochs=4)
    with pytest.raises(UserError, match=r"^step 3 is not finite"):
        parts.trainer.fit(parts.module, parts.data)
    parts.events = events_in(logger.log_dir)
    (line,) = warnings_of(parts, capsys)
    assert line.startswith("warning: layer 0 is exploding at step 3: the norm of its gradient is nan; ")
