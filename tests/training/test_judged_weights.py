"""Which weights fit tests and a run's folder stands for: one file, named in the table and in metrics.json."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from mlp_lightning import load
from mlp_lightning.cli import main as cli
from mlp_lightning.files.checkpoint_file import find_checkpoint
from mlp_lightning.training.callbacks.pictures import Pictures

# At this learning rate a later epoch is worse than the best.
FIT = [
    *(
        "fit",
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.log_every_n_steps",
        1,
    ),
    *("--data.dataset", "arrays", "--data.root", "data.npz", "--data.batch_size", 32, "--model.hidden", "[8]"),
    *("--trainer.max_epochs", 4, "--model.lr", 0.3),
]
RUNS = Path("lightning_logs/default")
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def run(run_cli, tmp_path, monkeypatch, capsys):
    """Runs the command line in a folder of its own: what it made, its metrics, and what it printed."""
    random = np.random.default_rng(1)
    y = random.integers(0, 4, 400)
    x = random.normal(size=(400, 6)).astype(np.float32)
    x[np.arange(400), y] += 1.5
    np.savez(tmp_path / "data.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    # They take most of the time of a short run.
    monkeypatch.setattr(Pictures, "_show", lambda *arguments, **options: None)

    def run(*arguments, version=0):
        made = run_cli(*arguments)
        return made, json.loads((RUNS / f"version_{version}" / "metrics.json").read_text()), capsys.readouterr().out

    return run


def accuracy_of(file, x, y, prefix="network."):
    """Of torch's own layers with the weights in a file, in percent as the table has it."""
    content = torch.load(file, weights_only=True)
    layers = []
    for k, (fan_in, fan_out) in enumerate(zip(content["sizes"], content["sizes"][1:], strict=False)):
        linear = nn.Linear(fan_in, fan_out)
        names = {name: content["state_dict"][f"{prefix}layers.{k}.{name}"] for name in ("weight", "bias")}
        linear.load_state_dict(names)
        layers += [linear, nn.ReLU()]
    with torch.no_grad():
        return float((nn.Sequential(*layers[:-1])(x).argmax(1) == y).double().mean())


def step_of(file):
    return torch.load(file, weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ((), "best"),
        (("--test", "best"), "best"),
        (("--test", "last"), "last"),
        (("--data.validation", "none"), "last"),
        (("--data.validation", "per_batch", "--data.shuffle", "false", "--model.lr", 3), "best"),
        (("--model.averaging", "ema", "--model.ema_decay", 0.1), "best"),
    ],
    ids=["by default", "best", "last", "no validation", "per batch", "averaged"],
)
def test_table_metrics_and_folder_are_of_one_file(run, options, file):
    made, metrics, printed = run(*FIT, *options)
    checkpoints = RUNS / "version_0" / "checkpoints"
    path = checkpoints / f"{file}.ckpt"
    if (checkpoints / "best.ckpt").exists():
        assert step_of(checkpoints / "best.ckpt") < step_of(checkpoints / "last.ckpt"), "the test would show nothing"
    prefix = "averaged_network." if "--model.averaging" in options else "network."
    data = made.datamodule.data
    expected = accuracy_of(path, data.test_x, data.test_y, prefix)
    assert metrics["test/accuracy"] == pytest.approx(expected, abs=1e-9)
    step = step_of(path)
    steps_per_epoch = step_of(checkpoints / "last.ckpt") // 4
    epoch = step // steps_per_epoch
    assert metrics["weights"] == {"file": f"{file}.ckpt", "epoch": epoch, "step": step}
    assert re.search(rf"^test accuracy +{expected:.2%} \({file}\.ckpt, epoch {epoch}\)$", printed, re.MULTILINE)
    assert find_checkpoint(RUNS / "version_0") == path
    assert load(RUNS / "version_0").path == path
    if "val/accuracy" not in metrics:
        return
    rows = made.datamodule.part_counts["val"].sum()
    assert metrics["val/errors"] == round(float((1 - metrics["val/accuracy"]) * rows))
    assert f"{metrics['val/accuracy']:.2%} ({file}.ckpt, epoch {epoch})" in printed
    if "per_batch" not in options:
        steps, values = torch.load(path, weights_only=True)["history"]["val/accuracy"]
        assert metrics["val/accuracy"] == values[steps.index(step)]
        assert file == "last" or metrics["val/accuracy"] == max(made.model.curves.history["val/accuracy"][1])


def test_never_chooses_too_and_tests_nothing(run):
    _, metrics, printed = run(*FIT, "--test", "never")
    assert metrics["weights"]["file"] == "best.ckpt"
    assert "test/accuracy" not in metrics
    assert f"{metrics['val/accuracy']:.2%} (best.ckpt, epoch " in printed


@pytest.mark.parametrize("options", [("--trainer.enable_checkpointing", "false"), ("--trainer.fast_dev_run", "true")])
def test_without_checkpoints_the_last_weights_are_tested(run_cli, run, capsys, options):
    made = run_cli(*FIT, *options)
    printed = capsys.readouterr().out
    assert made.model.judged.file is None
    assert "% (last weights, epoch " in printed


def test_best_weights_that_are_the_last_are_not_read_again(run, monkeypatch):
    loaded = []
    monkeypatch.setattr(cli.MLPModule, "take_validation", lambda self, content: loaded.append(content))
    _, metrics, _ = run(*FIT, "--trainer.max_epochs", 1)
    assert metrics["weights"]["file"] == "best.ckpt"
    assert loaded == []


def test_a_validation_before_the_last_step_says_so(run):
    _, metrics, printed = run(*FIT, "--test", "last", "--trainer.check_val_every_n_epoch", 3)
    assert metrics["val/step"] < metrics["weights"]["step"]
    assert f"{metrics['val/accuracy']:.2%} (at step {metrics['val/step']})" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "epoch 4 has been reached, and trainer.max_epochs is 4; raise it to train more"),
        (("--trainer.max_steps", 36), "step 36 has been reached, and trainer.max_steps is 36; raise it to train more"),
    ],
    ids=["epochs", "steps"],
)
def test_a_resumed_training_with_nothing_left_says_so_and_tests_the_same(run, options, said):
    _, first, printed = run(*FIT)
    assert "nothing is left" not in printed
    _, again, printed = run(*FIT, *options, "--ckpt_path", RUNS / "version_0/checkpoints/last.ckpt")
    assert {name: again[name] for name in ("weights", "test/accuracy", "val/accuracy")} == {
        name: first[name] for name in ("weights", "test/accuracy", "val/accuracy")
    }
    assert f"nothing is left to train: {said}" in printed.splitlines()


@pytest.mark.parametrize("choice", [(), ("--test", "best")], ids=["by default", "best"])
def test_a_best_checkpoint_that_cannot_be_read(run, run_main, capsys, monkeypatch, choice):
    def damaged(*arguments, **options):
        raise cli.UserError("--ckpt_path: best.ckpt is damaged")

    monkeypatch.setattr("mlp_lightning.training.judged_weights.read_checkpoint", damaged)
    if choice:
        with pytest.raises(SystemExit) as ended:
            run_main(*FIT, *choice)
        assert ended.value.code == 2
        assert "error: test: got best, but best.ckpt is damaged" in capsys.readouterr().err
    else:
        _, metrics, printed = run(*FIT)
        assert metrics["weights"]["file"] == "last.ckpt"
        assert "the last weights take the place of the best: best.ckpt is damaged" in printed


@pytest.mark.parametrize("content", ["", "[]", '{"weights": 3}', '{"weights": {"file": "../other.ckpt"}}', None])
def test_metrics_that_name_no_file_leave_the_best(tmp_path, content):
    (tmp_path / "checkpoints").mkdir()
    for name in ("best", "last"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert find_checkpoint(tmp_path).name == "best.ckpt"
    (tmp_path / "metrics.json").write_text('{"weights": {"file": "last.ckpt"}}')
    assert find_checkpoint(tmp_path).name == "last.ckpt"
    (tmp_path / "metrics.json").write_text('{"weights": {"file": "gone.ckpt"}}')
    assert find_checkpoint(tmp_path).name == "best.ckpt"


def test_best_is_no_older_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for version, name in enumerate(["best", "last"]):
        path = RUNS / f"version_{version}/checkpoints/{name}.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1_000_000 + version, 1_000_000 + version))
    with pytest.raises(cli.UserError, match=r"the newest run has no best\.ckpt, only .*version_1"):
        find_checkpoint("best")


@pytest.mark.parametrize("command", ["test", "validate"])
def test_an_evaluation_names_its_checkpoint(run, command):
    _, metrics, _ = run(*FIT)
    path = RUNS / "version_0/checkpoints/best.ckpt"
    _, again, printed = run(command, *FIT[1:5], "--ckpt_path", path, version=1)
    part = {"test": "test", "validate": "val"}[command]
    assert again["weights"] == metrics["weights"]
    assert again[f"{part}/accuracy"] == metrics[f"{part}/accuracy"]
    assert f"{again[f'{part}/accuracy']:.2%} (best.ckpt, epoch {metrics['weights']['epoch']})" in printed


@pytest.mark.parametrize("name", ["sigmoid", "relu", "tanh", "he_tanh", "he_relu", "adam_norm"])
def test_the_notebooks_configs_test_the_last_weights_as_it_did(name):
    assert yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["test"] == "last"
