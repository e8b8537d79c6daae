import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mlp_lightning
from mlp_lightning import invocation

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize(
    ("called", "typed"),
    [
        ("/usr/bin/mlp-lightning", "mlp-lightning"),
        ("C/Scripts/mlp-lightning.exe", "mlp-lightning"),
        ("/somewhere/mlp_lightning/__main__.py", "python -m mlp_lightning"),
        ("train.py", "python train.py"),
        ("", "python train.py"),
    ],
)
def test_the_command_that_was_typed(called, typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert invocation.program() == typed


@pytest.mark.parametrize("command", [["train.py"], ["-m", "mlp_lightning"]])
def test_one_version_everywhere(command):
    found = subprocess.run(
        [sys.executable, *command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == f"mlp_lightning {VERSION}\n"
    assert mlp_lightning.__version__ == VERSION
    assert re.search(rf"^version: {re.escape(VERSION)}$", (ROOT / "CITATION.cff").read_text(), re.M)


def test_a_checkout_that_is_not_installed_has_it_too(monkeypatch):
    def missing(name):
        raise invocation.PackageNotFoundError(name)

    monkeypatch.setattr(invocation, "version", missing)
    assert invocation.version_of_package() == VERSION


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["fit", "--help"]])
def test_the_usage_names_the_command_that_was_typed(arguments):
    command = [sys.executable, "-m", "mlp_lightning", *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("usage: python -m mlp_lightning")


def test_the_configs_at_the_top_are_those_of_the_package():
    assert (ROOT / "configs").resolve() == ROOT / "mlp_lightning" / "configs"
