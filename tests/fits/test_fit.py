"""The command line on MNIST, from the options to the files that a run leaves behind."""

import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn
from torch.nn.functional import cross_entropy

from mlp_lightning.data.images.deform import Deform
from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.training.distributed.strategy import START_METHODS

ROOT = Path(__file__).parents[2]
HIDDEN = [16, 8]
SHORT = {
    "--trainer.accelerator": "cpu",
    "--trainer.enable_progress_bar": False,
    "--trainer.limit_train_batches": 4,
    "--trainer.log_every_n_steps": 2,
    "--trainer.max_epochs": 2,
    "--model.hidden": HIDDEN,
}
SEED = 3


def arguments(command: str, config: str | None = None, **options: object) -> list[object]:
    """A command with short runs; options are named with ``__`` for the dot."""
    given = {f"--{name.replace('__', '.')}": value for name, value in options.items()}
    named = {**SHORT, **given}
    if command != "fit" and config is None:
        del named["--model.hidden"]
    parts: list[object] = [command] if config is None else [command, "--config", config]
    for name, value in named.items():
        parts += [name, value]
    return parts


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A run without a logger writes its config where it is started."""
    monkeypatch.chdir(tmp_path)


# One short epoch, whose test is what counts.
SHORTEST = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", 1),
    *("--trainer.log_every_n_steps", 1, "--trainer.limit_train_batches", 20),
    *("--model.hidden", HIDDEN),
]
NO_LOGS = {"trainer__logger": False, "trainer__enable_checkpointing": False}


@pytest.fixture(scope="module")
def images(cache_home, run_main):
    """MNIST as the IDX files hold it: training and test pixels and labels."""

    def read():
        raw = cache_home / "mlp_lightning" / "MNIST" / "raw"
        for part in ("train", "t10k"):
            pixels = np.frombuffer((raw / f"{part}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
            labels = np.frombuffer((raw / f"{part}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
            yield torch.tensor(pixels.reshape(-1, 784)).float() / 255, torch.tensor(labels).long()

    return read


@pytest.fixture(scope="module", params=["relu.yaml", "adam.yaml"])
def fitted(request, tmp_path_factory, run_main):
    """One short training a kind of validation: per batch (relu) and holdout (adam)."""
    root = tmp_path_factory.mktemp("root")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_main(*arguments("fit", request.param, trainer__default_root_dir=root, seed_everything=SEED))
    folder = root / "lightning_logs" / request.param.removesuffix(".yaml") / "version_0"
    return SimpleNamespace(
        config=request.param,
        folder=folder,
        root=root,
        printed=printed.getvalue(),
        metrics=json.loads((folder / "metrics.json").read_text()),
        last=folder / "checkpoints" / "last.ckpt",
        best=folder / "checkpoints" / "best.ckpt",
    )


@pytest.fixture(scope="module")
def events(fitted):
    kinds = ("scalars", "images", "histograms", "tensors")
    return EventAccumulator(str(fitted.folder), size_guidance=dict.fromkeys(kinds, 0)).Reload()


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def plain_network(checkpoint: dict) -> nn.Sequential:
    sizes = checkpoint["sizes"]
    modules: list[nn.Module] = []
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(fan_in, fan_out)
        prefix = f"network.layers.{k}."
        linear.load_state_dict({name: checkpoint["state_dict"][prefix + name] for name in ("weight", "bias")})
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


@torch.no_grad()
def figures(network: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float, np.ndarray]:
    logits = network(x)
    predicted = logits.argmax(1)
    recalls = recall_score(y, predicted, average=None, zero_division=0)
    return cross_entropy(logits.double(), y).item(), accuracy_score(y, predicted), recalls


def test_a_run_leaves_its_files_in_one_folder(fitted):
    names = {str(path.relative_to(fitted.folder)) for path in fitted.folder.rglob("*") if path.is_file()}
    expected = {
        ".lock",
        "config.yaml",
        "hparams.yaml",
        "metrics.json",
        "started.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        *(f"{name}.png" for name in ("confusion_test", "confusion_val", "curves", "digits", "mistakes", "weights")),
    }
    assert {name for name in names if not name.startswith("events.out.tfevents.")} == expected
    assert names > expected
    for png in fitted.folder.glob("*.png"):
        assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [path.name for path in fitted.folder.parent.iterdir()] == ["version_0"]


def test_all_samples_train_where_none_validates(run_cli, recwarn):
    run_cli("fit", "--config", "adam.yaml", "--data.validation", "none", *SHORTEST)
    folder = Path("lightning_logs/adam/version_0")
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "test/accuracy" in metrics
    assert "val/accuracy" not in metrics
    assert not [warning for warning in recwarn if "val/accuracy" in str(warning.message)]


def test_deformed_copies_are_predicted_together(run_cli, images):
    deform = ["--data.deform.rotation", 20, "--data.deform.elastic", 1, "--data.deform.class_rotation", '{"1": 0}']
    run_cli("fit", "--config", "adam.yaml", "--data.test_deformations", 3, *deform, *SHORTEST)
    folder = Path("lightning_logs/adam/version_0")
    metrics = json.loads((folder / "metrics.json").read_text())
    network = plain_network(load(folder / "checkpoints" / "last.ckpt"))
    _, (x, y) = images()
    options = DeformOptions(rotation=20, elastic=1)
    deform = Deform(options, (28, 28), tuple("0123456789"), seed=0)
    log_p = torch.zeros(len(y), 10, dtype=torch.float64)
    with torch.no_grad():
        for batch, start in enumerate(range(0, len(y), 2000)):
            rows = slice(start, start + 2000)
            for k in range(3):
                copy = deform(x[rows], y[rows], epoch=0, step=3 * batch + k)
                log_p[rows] += network(copy).double().log_softmax(1) / 3
    assert metrics["test/deformed_accuracy"] == pytest.approx(accuracy_score(y, log_p.argmax(1)), abs=1e-3)
    assert metrics["test/deformed_loss"] == pytest.approx(cross_entropy(log_p, y).item(), rel=1e-4)
    assert metrics["test/deformed_accuracy"] != metrics["test/accuracy"]


@pytest.mark.parametrize(
    "precision",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("bf16-true", "bf16-mixed", "64-true")],
)
def test_pictures_in_every_precision(run_cli, precision):
    run_cli("fit", "--config", "adam.yaml", "--trainer.precision", precision, *SHORTEST)
    assert Path("lightning_logs/adam/version_0/mistakes.png").is_file()


def test_the_config_that_is_kept_repeats_the_run(fitted, run_cli):
    again = run_cli("fit", "--config", fitted.folder / "config.yaml", "--trainer.logger", "false", "--test", "never")
    last = load(fitted.last)["state_dict"]
    state = again.model.state_dict()
    assert all(torch.equal(tensor, last[name]) for name, tensor in state.items())


def test_the_metrics_equal_those_of_plain_torch_layers(fitted, images):
    (_, (test_x, test_y)) = images()
    loss, accuracy, recalls = figures(plain_network(load(fitted.last)), test_x, test_y)
    assert fitted.metrics["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert fitted.metrics["test/accuracy"] == accuracy
    assert fitted.metrics["test/class_accuracy"] == pytest.approx(
        {str(digit): share for digit, share in enumerate(recalls)}
    )


def test_the_validation_metrics_are_of_the_samples_set_apart(fitted, images):
    ((x, y), _) = images()
    network = plain_network(load(fitted.last))
    if fitted.config == "relu.yaml":
        position = np.arange(60000) % 64
        # Of 64 samples 45 train; the last minibatch has 32, of which 23 train.
        validates = np.where(np.arange(60000) < 59968, position >= 45, position >= 23)
        loss, accuracy, _ = figures(network, x[validates], y[validates])
        assert fitted.metrics["val/loss"] == pytest.approx(loss, rel=1e-5)
        assert fitted.metrics["val/accuracy"] == accuracy
    else:
        # Which 5000 is the split's to say: that they were not trained on shows in no figure, their number does.
        assert fitted.metrics["val/accuracy"] * 5000 == pytest.approx(round(fitted.metrics["val/accuracy"] * 5000))
    assert set(fitted.metrics["val/class_accuracy"]) == set("0123456789")


def test_the_metrics_say_how_the_run_went(fitted):
    metrics = fitted.metrics
    assert (metrics["steps"], metrics["epochs"], metrics["seed"], metrics["device"]) == (8, 2, SEED, "cpu")
    assert metrics["versions"]["torch"] == torch.__version__
    assert set(metrics["versions"]) == {"mlp_lightning", "python", "torch", "lightning"}
    assert 0 < metrics["train_seconds"] < metrics["seconds"]
    images_seen = 8 * (45 if fitted.config == "relu.yaml" else 128)
    # Seconds are rounded to milliseconds.
    assert metrics["images_per_second"] == pytest.approx(images_seen / metrics["train_seconds"], rel=0.1)
    assert metrics["train/loss"] == load(fitted.last)["history"]["train/loss"][1][-1]


def test_the_results_are_printed_as_a_table(fitted):
    for name in ("val", "test"):
        assert f"{name} accuracy" in fitted.printed
        assert f"{fitted.metrics[f'{name}/accuracy']:.2%}" in fitted.printed
        assert f"{fitted.metrics[f'{name}/loss']:.4f}" in fitted.printed
    assert "16 × 784" in fitted.printed
    assert f"logs: {fitted.folder}" in fitted.printed


SCALAR_STEPS = {
    "train/loss": [2, 4, 6, 8],
    "optim/lr": [2, 4, 6, 8],
    "test/loss": [8],
    "test/accuracy": [8],
}
VALIDATION_STEPS = {"relu.yaml": [2, 4, 6, 8], "adam.yaml": [4, 8]}


def test_the_events_hold_the_scalars(fitted, events):
    steps = VALIDATION_STEPS[fitted.config]
    expected = {**SCALAR_STEPS, "val/loss": steps, "val/accuracy": steps}
    found = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {tag: found[tag] for tag in expected} == expected
    assert all(tag in expected or tag.startswith(("result/", "health/")) for tag in found)
    # Health measures every fourth record.
    assert found["health/update_norm/layer 0"] == SCALAR_STEPS["optim/lr"][3::4] == [8]
    history = load(fitted.last)["history"]
    for tag in ("train/loss", "val/loss", "val/accuracy", "optim/lr"):
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(history[tag][1]), tag
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(fitted.metrics["test/accuracy"])


def test_the_events_hold_the_pictures(events):
    steps = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps["digits"] == [0]
    assert steps["confusion/val"] == [4, 8]
    for tag in ("confusion/test", "curves", "mistakes", "weights"):
        assert steps[tag] == [8], tag


def test_the_events_hold_a_histogram_a_layer_and_epoch(fitted, events):
    state = load(fitted.last)["state_dict"]
    expected = {f"{kind}/layer {k}" for kind in ("weights", "biases", "grad") for k in range(3)}
    assert set(events.Tags()["histograms"]) == expected
    for tag in expected:
        assert [event.step for event in events.Histograms(tag)] == [4, 8]
    for k in range(3):
        histogram = events.Histograms(f"weights/layer {k}")[-1].histogram_value
        weight = state[f"network.layers.{k}.weight"]
        assert histogram.num == weight.numel()
        assert histogram.sum == pytest.approx(weight.sum().item(), abs=1e-3)


def test_the_three_curves_share_a_chart(events):
    (event,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    charts = [list(chart.multiline.tag) for category in layout.category for chart in category.chart]
    assert charts == [["train/loss", "val/loss", "val/accuracy"]]


def test_the_hyperparameters_come_with_their_results(fitted, events):
    def plugin(tag):
        return HParamsPluginData.FromString(events.SummaryMetadata(tag).plugin_data.content)

    given = plugin("_hparams_/session_start_info").session_start_info.hparams
    assert given["hidden"].string_value == str(HIDDEN)
    assert given["batch_size"].number_value == (64 if fitted.config == "relu.yaml" else 128)
    metrics = {info.name.tag for info in plugin("_hparams_/experiment").experiment.metric_infos}
    assert metrics == {f"result/{name}" for name in ("val/loss", "val/accuracy", "test/loss", "test/accuracy")}
    for tag in metrics:
        (event,) = events.Scalars(tag)
        assert event.value == pytest.approx(fitted.metrics[tag.removeprefix("result/")])


def test_tensorboard_shows_one_run(fitted):
    runs = EventMultiplexer().AddRunsFromDirectory(str(fitted.root)).Reload().Runs()
    assert len(runs) == 1


@pytest.mark.parametrize("with_config", [True, False], ids=["config", "no config"])
@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_gives_the_figures_of_its_fit(fitted, run_cli, command, with_config):
    config = fitted.config if with_config else None
    cli = run_cli(*arguments(command, config, ckpt_path=fitted.last, trainer__logger=False))
    part = {"validate": "val", "test": "test"}[command]
    assert cli.model.results == {
        name: pytest.approx(fitted.metrics[name], rel=1e-6) for name in (f"{part}/loss", f"{part}/accuracy")
    }


def test_another_split_is_not_taken(fitted, run_cli, capsys):
    # Most of another half would be samples that were trained on.
    options = {"ckpt_path": fitted.last, "trainer__logger": False, "seed_everything": SEED + 1}
    cli = run_cli(*arguments("validate", data__validation_size=0.5, data__validation="holdout", **options))
    if fitted.config == "adam.yaml":
        assert cli.model.counts["val"].sum() == 5000
    kept = "5000" if fitted.config == "adam.yaml" else "null"
    assert f"data.validation_size: stays {kept}, not 0.5: the checkpoint knows" in capsys.readouterr().out
    assert cli.datamodule.seed == cli.model.hparams["seed"] == SEED


def test_evaluation_leaves_a_run_of_its_own(fitted, run_main, tmp_path):
    run_main(*arguments("test", fitted.config, ckpt_path=fitted.last, trainer__default_root_dir=tmp_path))
    (folder,) = (tmp_path / "lightning_logs").glob("*/version_0")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test/accuracy"] == fitted.metrics["test/accuracy"]
    assert {path.name for path in folder.glob("*.png")} == {"confusion_test.png", "mistakes.png"}


def test_a_fit_goes_on_from_its_checkpoint_with_the_options_given_now(fitted, run_cli, tmp_path):
    before = fitted.last.read_bytes()
    cli = run_cli(
        *arguments(
            "fit",
            fitted.config,
            ckpt_path=fitted.last,
            model__lr=0.25,
            model__schedule="constant",
            model__warmup_epochs=0,
            trainer__max_epochs=3,
            trainer__default_root_dir=tmp_path,
            trainer__logger=False,
            test="never",
        )
    )
    steps, rates = cli.model.curves.history["optim/lr"]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert rates[:4] == load(fitted.last)["history"]["optim/lr"][1]
    assert rates[4:] == [0.25, 0.25]
    assert cli.trainer.global_step == 12
    assert fitted.last.read_bytes() == before


def test_a_diverged_fit_ends_in_one_line_and_leaves_the_checkpoint(fitted, run_main, tmp_path, capsys):
    before = fitted.last.read_bytes()
    with pytest.raises(SystemExit) as ended:
        run_main(
            *arguments(
                "fit",
                fitted.config,
                ckpt_path=fitted.last,
                model__lr=1e38,
                trainer__max_epochs=4,
                trainer__default_root_dir=tmp_path,
                trainer__logger=False,
            )
        )
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "likely cause: a learning rate that is too large" in line
    assert fitted.last.read_bytes() == before
    # The folder of the resumed run holds what it came from, nothing of the divergence.
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_a_learning_rate_far_too_large_ends_in_one_line(run_main, capsys, rate):
    bar = {"trainer__enable_progress_bar": True}
    with pytest.raises(SystemExit) as ended:
        run_main(*arguments("fit", "relu.yaml", model__lr=rate, trainer__max_epochs=3, **NO_LOGS, **bar))
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: step "), "it has a line of its own below the bar"
    assert "likely cause: a learning rate that is too large" in last


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_runs(run_cli, path):
    limits = {f"trainer__limit_{part}_batches": n for part, n in (("train", 3), ("val", 1), ("test", 1))}
    # The config for a table of the user's own names none; others want files that tests do not download.
    limits["data__dataset"] = "mnist"
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "warmup_epochs" in given["model"]:
        limits["model__warmup_epochs"] = 0.5
    # Deformed copies of 10,000 images would take longer than all else.
    limits["data__test_deformations"] = 0
    options = arguments("fit", path.name, trainer__max_epochs=1, **limits, **NO_LOGS)
    at = options.index("--model.hidden")
    cli = run_cli(*options[:at], *options[at + 2 :])
    assert cli.trainer.global_step == 3
    parts = ["train"] if given["data"].get("validation") == "none" else ["train", "val"]
    assert set(cli.report.metrics) > {*(f"{part}/loss" for part in parts), "test/loss", "test/accuracy"}
    assert ("val/accuracy" in cli.report.metrics) == ("val" in parts)


# At this learning rate the network is dead after the first epoch, which is the best.
WORSE_AND_WORSE = {
    "model__lr": 2.0,
    "model__warmup_epochs": 1.5,
    "trainer__max_epochs": 3,
    "trainer__limit_test_batches": 2,
    "trainer__logger": False,
}


@pytest.mark.parametrize("choice", ["last", "best", "never"])
def test_fit_tests_the_weights_it_is_told_to(run_cli, tmp_path, images, choice):
    cli = run_cli(
        *arguments("fit", "adam.yaml", test=choice, trainer__default_root_dir=tmp_path, **WORSE_AND_WORSE),
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.filename=mine",
        "--trainer.callbacks.every_n_train_steps=1",
    )
    checkpoints = {path.stem: load(path) for path in (tmp_path / "checkpoints").iterdir()}
    assert checkpoints["best"]["global_step"] < checkpoints["last"]["global_step"] == 12
    if choice == "never":
        assert "test/accuracy" not in cli.model.results
        return
    (_, (test_x, test_y)) = images()
    loss, accuracy, _ = figures(plain_network(checkpoints[choice]), test_x[:4000], test_y[:4000])
    assert cli.model.results["test/accuracy"] == pytest.approx(accuracy)
    assert cli.model.results["test/loss"] == pytest.approx(loss, rel=1e-5)


def test_patience_stops_a_training_that_no_longer_improves(run_cli):
    rest = {"trainer__max_epochs": 9, "patience": 1, "test": "never", **NO_LOGS}
    cli = run_cli(*arguments("fit", "adam.yaml", model__lr=0.0, **rest))
    assert cli.trainer.current_epoch == 2
    cli = run_cli(*arguments("fit", "adam.yaml", model__lr=0.0, **{**rest, "patience": 3}))
    assert cli.trainer.current_epoch == 4


@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "fsdp", "no_such"])
def test_other_strategies_are_refused_in_one_line(run_main, capsys, strategy):
    with pytest.raises(SystemExit) as ended:
        run_main(*arguments("fit", "relu.yaml", trainer__strategy=strategy, trainer__devices=2, **NO_LOGS))
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: trainer")
    if strategy.startswith("ddp"):
        assert all(name in error for name in START_METHODS)


def test_the_best_weights_cannot_be_tested_where_none_are_kept(run_main, capsys):
    with pytest.raises(SystemExit) as ended:
        run_main(*arguments("fit", "relu.yaml", test="best", **NO_LOGS))
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: test: got best, ")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["relu.yaml", "adam.yaml"])
def test_two_processes_of_the_command_line_equal_one(tmp_path, cache_home, run_main, config):
    options = arguments("fit", config, trainer__limit_train_batches=10, trainer__log_every_n_steps=5)
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.default_root_dir", str(tmp_path / "two")]
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *map(str, options), *two],
        env={**os.environ, "XDG_CACHE_HOME": str(cache_home), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    run_main(*options, "--trainer.default_root_dir", tmp_path / "one")
    states, metrics = [], []
    for folder in ("two", "one"):
        (version,) = (tmp_path / folder / "lightning_logs").glob("*/version_*")
        states.append(load(version / "checkpoints" / "last.ckpt")["state_dict"])
        metrics.append(json.loads((version / "metrics.json").read_text()))
    torch.testing.assert_close(states[0], states[1], rtol=1e-5, atol=1e-6)
    for name in ("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-4), name
    assert metrics[0]["steps"] == metrics[1]["steps"] == 20
