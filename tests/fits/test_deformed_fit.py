"""Deformations on the command line: options, files, checkpoints, and what other commands take from those."""

from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SHORT = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "2"),
    *("--trainer.limit_train_batches", "3", "--trainer.log_every_n_steps", "1"),
    *("--model.hidden", "[8]", "--test", "never"),
]
GIVEN = {
    "elastic": 1.1,
    "rotation": 15.0,
    "scale": 0.15,
    "shift": 1.0,
    "class_rotation": {"1": 0.5, "7": 0.5},
    "end_strength": 0.5,
    "cutout": 3,
}
CONFIG = """
data:
  deform:
    elastic: 1.1
    rotation: 15
    scale: 0.15
    shift: 1
    class_rotation: {1: 0.5, "7": 0.5}
    end_strength: 0.5
    cutout: 3
  mixup: 0.3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_cli) -> Path:
    """The folder of a run whose deformations a config file gives."""
    root = tmp_path_factory.mktemp("deformed")
    (root / "deformed.yaml").write_text(CONFIG)
    run_cli("fit", "--config", root / "deformed.yaml", *SHORT, "--trainer.default_root_dir", root)
    return root / "lightning_logs" / "deformed" / "version_0"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A run without a logger writes its config where it is started."""
    monkeypatch.chdir(tmp_path)


def test_a_fit_shows_what_it_trains_on(folder):
    assert (folder / "deformed.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("deformed")] == [0]


def test_no_picture_without_deformation(tmp_path, run_cli):
    run_cli("fit", *SHORT, "--trainer.default_root_dir", tmp_path, "--data.mixup", "0.2")
    assert list(tmp_path.rglob("digits.png"))
    assert not list(tmp_path.rglob("deformed.png"))


def test_a_checkpoint_holds_plain_values(folder):
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert {name: stored["deform"][name] for name in GIVEN} == GIVEN
    assert type(stored["deform"]) is dict
    assert stored["mixup"] == 0.3


def test_the_config_that_is_kept_repeats_the_run(folder, run_cli):
    again = run_cli("fit", "--config", folder / "config.yaml", "--trainer.logger", "false")
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, last[name]) for name, tensor in again.model.state_dict().items())


def test_the_same_options_on_the_command_line(folder, run_cli):
    options = [part for name, value in GIVEN.items() for part in (f"--data.deform.{name}", yaml.safe_dump(value))]
    options[options.index("--data.deform.class_rotation") + 1] = '{"1": 0.5, "7": 0.5}'
    again = run_cli("fit", *SHORT, *options, "--data.mixup", "0.3", "--trainer.logger", "false")
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, last[name]) for name, tensor in again.model.state_dict().items())


@pytest.mark.parametrize("command", ["check", "explain"])
def test_looking_at_a_checkpoint_takes_its_deformations_but_for_those_given(folder, run_cli, command, capsys):
    options = ["--data.deform.rotation", "30", "--data.deform.end_strength", "0.2"]
    looked = run_cli(
        command, "--ckpt_path", folder / "checkpoints" / "last.ckpt", "--trainer.accelerator", "cpu", *options
    )
    found = looked.datamodule.deform
    assert {name: getattr(found, name) for name in GIVEN} == {**GIVEN, "rotation": 30.0, "end_strength": 0.2}
    assert looked.datamodule.mixup == 0.3
    said = capsys.readouterr().out
    if command == "explain":
        assert "elastic 1.1, rotation 30, scale 0.15, shift 1, cutout 3" in said
        assert "mixup" in said
    else:
        assert "checks passed" in said


def test_a_test_sees_the_images_as_they_are(folder, run_cli):
    tested = run_cli("test", "--ckpt_path", folder / "checkpoints" / "last.ckpt", "--trainer.accelerator", "cpu")
    (batch, *_) = tested.datamodule.test_dataloader()
    assert torch.equal(batch.x, tested.datamodule.data.test_x[: len(batch.x)])
    assert batch.partner_y is None


def test_print_config_gives_every_option(run_cli, capsys):
    with pytest.raises(SystemExit):
        run_cli("fit", *SHORT, "--data.deform.elastic", "1.1", "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)["data"]["deform"]
    assert printed["elastic"] == 1.1
    assert printed["sigma"] == 5.5
    assert printed["class_rotation"] == {}
