"""What a command imports, and above all what it does not; asked of real processes, never of the clock."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mlp_lightning.cli.light import LIGHT
from mlp_lightning.cli.overview import COMMANDS, asks_for_overview

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "lightning",
    "matplotlib",
    "numpy",
    "pandas",
    "scipy",
    "seaborn",
    "sklearn",
    "sympy",
    "tensorboard",
    "torch",
    "torchmetrics",
    "torchvision",
}
ENTRANCES = [[str(ROOT / "train.py")], ["-m", "mlp_lightning"]]


def run(arguments: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A process that has ended, and the packages it has imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    lines = done.stderr.splitlines()
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    done.stderr = "\n".join(line for line in lines if not line.startswith("import time:"))
    return done, modules


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("entrance", ENTRANCES, ids=["train.py", "-m"])
@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("--help", 0, "explain"),
        ("-h", 0, "explain"),
        ("-c relu.yaml --help", 0, "explain"),
        ("compare --help", 0, "--notebook"),
        ("compare", 2, "error: compare: got no config, name one or more, or use --notebook"),
        ("compare none.yaml", 2, "error: --config: there is no file 'none.yaml'"),
        ("compare relu.yaml --seeds 0", 2, "error: --seeds: got 0, must be at least 1"),
        ("predict --help", 0, "--skip_unreadable"),
        ("predict --input a", 2, "error: predict: the following arguments are required: --ckpt_path"),
        ("predict --ckpt_path a --input b --top 0", 2, "error: --top: got 0, must be at least 1"),
        ("predict --ckpt_path a --input b --output c/d", 2, "error: --output: got c/d, must be a file in an existing"),
        ("draw --help", 0, "--port"),
        ("draw", 2, "error: draw: the following arguments are required: --ckpt_path"),
        ("draw --ckpt_path a --port 99999", 2, "error: --port: got 99999, must be in 0 … 65535"),
        ("init --help", 0, "--force"),
        ("init", 2, "error: init: the following arguments are required: CONFIG"),
        ("init none/my.yaml", 2, "error: init: got none/my.yaml, must be a file in an existing folder"),
        ("export --help", 0, "safetensors"),
        ("export --format torch", 2, "error: export: the following arguments are required: --ckpt_path, --output"),
        ("export --ckpt_path a --format b --output c", 2, "error: export: argument --format: invalid choice: 'b'"),
        ("export --ckpt_path a --format torch --output b/c", 2, "error: --output: there is no folder b"),
    ],
)
def test_answered_without_torch(line: str, status: int, said: str, entrance: list[str], tmp_path: Path) -> None:
    done, modules = run([*entrance, *shlex.split(line)], tmp_path)
    assert done.returncode == status
    assert said in (done.stdout if status == 0 else done.stderr)
    assert len(done.stderr.splitlines()) == (status != 0)
    assert not packages(modules) & HEAVY
    # A line of -X importtime was read as it is meant.
    assert "mlp_lightning.cli.start" in modules


def test_draw_needs_no_lightning(tmp_path: Path) -> None:
    """All that it serves with has been imported when the checkpoint is looked for."""
    done, modules = run([*ENTRANCES[0], "draw", "--ckpt_path", "none.ckpt"], tmp_path)
    assert done.stderr == "error: --ckpt_path: there is no file none.ckpt"
    assert "mlp_lightning.commands.draw.server" in modules
    assert not packages(modules) & HEAVY - {"numpy", "torch", "sympy"}


@pytest.mark.parametrize("command", ["fit", pytest.param("explain", marks=pytest.mark.slow)])
def test_help_of_a_command_imports_no_work(command: str, tmp_path: Path) -> None:
    done, modules = run([*ENTRANCES[0], command, "--help"], tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert COMMANDS[command].split()[0] in done.stdout
    assert "lightning" in modules
    assert not packages(modules) & {"pandas", "seaborn", "sklearn"}
    assert not modules & {"mlp_lightning.commands.check.command", "mlp_lightning.commands.explain.command"}


def test_collector_runs_again_and_spares_the_imports(tmp_path: Path) -> None:
    code = "import gc, atexit; atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 100_000)); "
    done, _ = run(["-c", f"{code}from mlp_lightning.cli.start import main; main(['fit', '--print_config'])"], tmp_path)
    assert done.stdout.splitlines()[-1] == "True True"


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("", False),
        ("fit", False),
        ("--help", True),
        ("-h", True),
        ("--help fit", True),
        ("fit --help", False),
        ("compare -h", False),
        ("-c relu.yaml -h", True),
        ("-c relu.yaml fit -h", False),
        ("bogus", False),
    ],
)
def test_asks_for_overview(line: str, asks: bool) -> None:
    assert asks_for_overview(shlex.split(line)) == asks


def test_overview_lists_what_there_is(run_main: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    listed = []
    # Lightning's own parser is asked where no command stands first.
    for arguments in (["bogus"], ["--config", "relu.yaml"]):
        with pytest.raises(SystemExit):
            run_main(*arguments)
        listed.append(capsys.readouterr().err.strip().partition("must be one of ")[2].split(", "))
    assert listed[0] == list(COMMANDS)
    assert sorted([*listed[1], *LIGHT]) == sorted(COMMANDS)


def test_options_before_the_command(
    run_main: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Then no command stands first, and every one has its parser."""
    (tmp_path / "whole.yaml").write_text("fit:\n  model:\n    lr: 0.125\n")
    with pytest.raises(SystemExit) as caught:
        run_main("--config", tmp_path / "whole.yaml", "fit", "--print_config")
    assert caught.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["lr"] == 0.125


@pytest.mark.skipif(os.name != "posix", reason="pipes end otherwise there")
@pytest.mark.parametrize("command", ["--help", pytest.param("init my.yaml", marks=pytest.mark.slow)])
def test_who_reads_the_output_may_leave(command, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, str(ROOT / "train.py"), *command.split()]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
