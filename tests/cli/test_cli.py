"""The command line before anything runs: configs by name, help, and the options as they would be used."""

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mlp_lightning.cli.config_files import CONFIG_FOLDER, find_configs
from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError
from mlp_lightning.training.module import MLPModule


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs, seen from another folder that has a config of the same name as one of its."""
    for place in ("here", "configs"):
        (tmp_path / place).mkdir()
    for path in ("here/mine.yaml", "here/both.yaml", "configs/both.yaml", "configs/theirs.yaml"):
        (tmp_path / path).write_text("model:\n  lr: 0.1\n")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "configs"


@pytest.mark.parametrize(
    ("line", "found", "name"),
    [
        ("fit", "fit", "default"),
        ("fit --model.lr 1", "fit --model.lr 1", "default"),
        ("fit --config mine.yaml", "fit --config mine.yaml", "mine"),
        ("fit --config both.yaml", "fit --config both.yaml", "both"),
        ("fit --config theirs.yaml", "fit --config CONFIGS/theirs.yaml", "theirs"),
        ("fit --config=theirs.yaml", "fit --config=CONFIGS/theirs.yaml", "theirs"),
        ("fit -c theirs.yaml", "fit -c CONFIGS/theirs.yaml", "theirs"),
        ("fit -c theirs.yaml -c mine.yaml", "fit -c CONFIGS/theirs.yaml -c mine.yaml", "mine"),
        ("fit --config ../configs/both.yaml --test best", "fit --config ../configs/both.yaml --test best", "both"),
        ("fit --data.root theirs.yaml", "fit --data.root theirs.yaml", "default"),
        ("fit --config", "fit --config", "default"),
    ],
)
def test_find_configs(line: str, found: str, name: str, folder: Path) -> None:
    arguments = shlex.split(line)
    assert find_configs(arguments, folder) == (shlex.split(found.replace("CONFIGS", str(folder))), name)
    assert arguments == shlex.split(line)


def test_find_configs_names_what_there_is(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no file 'none.yaml', neither here nor in .*, which holds both.yaml, theirs"):
        find_configs(["fit", "--config", "none.yaml"], folder)


@pytest.fixture
def printed(run_main: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command line that ends well prints, and nothing else."""

    def output(line: str) -> str:
        with pytest.raises(SystemExit) as caught:
            run_main(*shlex.split(line))
        assert caught.value.code == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return output


def test_help_names_the_commands(printed: Callable[..., str]) -> None:
    output = printed("--help")
    for command in ("fit", "validate", "test"):
        assert f"    {command} " in output


def test_help_explains_every_option(printed: Callable[..., str]) -> None:
    output = " ".join(printed("fit --help").split())
    for group, kind in (("model", MLPModule), ("data", DataModule)):
        for name in inspect.signature(kind).parameters:
            # The seeds are no options: both are seed_everything.
            assert (f"--{group}.{name} " in output) == (name != "seed")
    for text in ("--seed_everything", "--patience", "--test TEST", "--ckpt_path", "--config"):
        assert text in output
    # From the docstrings of the module and of the data module.
    assert "Widths of the hidden layers; input and output follow from the data." in output
    assert "Samples in a minibatch, over all devices together." in output
    assert "Seed of initial weights, validation split and shuffling." in output


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_print_config_is_a_config(
    command: str, printed: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = printed(f"{command} --config relu.yaml --model.lr 0.5 --print_config")
    (tmp_path / "again.yaml").write_text(first)
    options = yaml.safe_load(first)
    written = yaml.safe_load((CONFIG_FOLDER / "relu.yaml").read_text())
    assert options["model"]["lr"] == 0.5
    assert options["test"] == written.pop("test")
    for group, values in written.items():
        for name, value in values.items():
            if (group, name) != ("model", "lr"):
                assert options[group][name] == value
    assert printed(f"{command} --config again.yaml --print_config") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.yaml"]


def test_later_options_win(printed: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr.yaml").write_text("model:\n  lr: 0.25\n")
    options = yaml.safe_load(printed("fit --config relu.yaml --config lr.yaml --print_config"))
    assert (options["model"]["lr"], options["model"]["hidden"]) == (0.25, [500, 250, 100])
    options = yaml.safe_load(printed("fit --model.lr 0.5 --config lr.yaml --model.lr 0.75 --print_config"))
    assert options["model"]["lr"] == 0.75
