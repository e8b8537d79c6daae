"""When compare repeats a finished run, what it refuses before any fit, and how it ends one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_lightning.commands.compare import fingerprint, runs
from mlp_lightning.commands.compare.command import compare
from mlp_lightning.commands.compare.fingerprint import data_digest
from mlp_lightning.commands.compare.runs import execute, plan
from mlp_lightning.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
METRICS = {"test/accuracy": 0.5, "test/loss": 0.25, "seconds": 3.0, "epochs": 2}


@pytest.fixture
def fits(monkeypatch):
    """Commands of fits, none of which is run; each leaves ``METRICS``."""
    commands = []

    def fit(command, environment):
        commands.append(command)
        folder = Path(command[command.index("--trainer.default_root_dir") + 1]) / "lightning_logs" / "x" / "version_0"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(METRICS))
        return 0, ""

    monkeypatch.setattr(runs.Children, "run", staticmethod(fit))
    return commands


def table(folder):
    (folder / "t.csv").write_text("a,y\n1,2\n")
    return folder / "t.csv"


def a_row_more(path):
    with path.open("a") as file:
        file.write("3,4\n")


def same_size_and_time(path):
    status = path.stat()
    path.write_text(path.read_text().replace("1,2", "9,2"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def pictures(folder):
    (folder / "p" / "cat").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    Image.new("L", (2, 2)).save(folder / "elsewhere" / "0.png")
    (folder / "p" / "dog").symlink_to(folder / "elsewhere")
    (folder / "p" / "cat" / "loop").symlink_to(folder / "p")
    return folder / "p"


def a_picture_more(path):
    Image.new("L", (2, 2), 7).save(path / "dog" / "1.png")


def arrays(folder):
    (folder / "a").mkdir()
    np.save(folder / "a" / "x.npy", np.zeros((4, 2)))
    return folder / "a"


def another_value(path):
    np.save(path / "x.npy", np.eye(4)[:, :2])


CHANGES = {
    "row more": ("csv", table, a_row_more),
    "same size": ("csv", table, same_size_and_time),
    "picture more": ("image_folder", pictures, a_picture_more),
    "array": ("arrays", arrays, another_value),
}


@pytest.mark.parametrize("name", ["root", "test_path"])
@pytest.mark.parametrize("change", CHANGES)
def test_runs_are_repeated_when_their_data_change(tmp_path, fits, change, name, monkeypatch, capsys):
    kind, make, alter = CHANGES[change]
    path = make(tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"data": {"dataset": kind, "root": "/nowhere", name: str(path)}}))
    monkeypatch.setattr("mlp_lightning.commands.compare.command._draw_curves", lambda *arguments: None)
    arguments = [str(config), "--seeds", "2", "--logs", str(tmp_path / "logs")]
    compare(arguments, Path)
    compare(arguments, Path)
    assert len(fits) == 2
    assert "runs are repeated" not in capsys.readouterr().out
    alter(path)
    compare(arguments, Path)
    assert len(fits) == 4
    assert "2 of 2 runs are repeated, for the data changed since" in capsys.readouterr().out


def test_runs_are_repeated_when_the_program_changes(tmp_path, fits, monkeypatch, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("model: {lr: 0.1}\n")
    monkeypatch.setattr("mlp_lightning.commands.compare.command._draw_curves", lambda *arguments: None)
    arguments = [str(config), "--seeds", "1", "--logs", str(tmp_path / "logs")]
    compare(arguments, Path)
    monkeypatch.setattr(runs, "program_digest", lambda: "another0")
    compare(arguments, Path)
    assert len(fits) == 2
    assert "1 of 1 runs are repeated, for the program changed since" in capsys.readouterr().out
    # As an older version, which knew of options only, called it.
    for folder in (tmp_path / "logs").glob("c-seed0-*"):
        folder.rename(tmp_path / "logs" / folder.name.rsplit("-", 2)[0])
        break
    monkeypatch.setattr(runs, "program_digest", lambda: "a third0")
    compare(arguments, Path)
    assert len(fits) == 3


def test_runs_are_repeated_when_a_config_that_is_named_changes(tmp_path, fits):
    (tmp_path / "model.yaml").write_text("lr: 0.1\n")
    (tmp_path / "deform.yaml").write_text("rotation: 5\n")
    (tmp_path / "data.yaml").write_text("batch_size: 8\ndeform: deform.yaml\n")
    config = tmp_path / "c.yaml"
    config.write_text("model: model.yaml\ndata: data.yaml\n")
    grid = [f"data={tmp_path / 'data.yaml'}"]
    for count, (name, text) in enumerate(
        [("model.yaml", "lr: 0.1 # the same"), ("model.yaml", "lr: 0.2"), ("deform.yaml", "rotation: 6")], 1
    ):
        list(execute(plan([config], grid, 1), tmp_path / "logs", 1))
        assert len(fits) == max(1, count - 1)
        (tmp_path / name).write_text(text)
    list(execute(plan([config], grid, 1), tmp_path / "logs", 1))
    assert len(fits) == 3


def test_large_data_are_known_by_heads_tails_and_times(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "MOST_READ", 10)
    monkeypatch.setattr(fingerprint, "HEAD", 4)
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,2\n3,4\n")
    options = {"data.dataset": "csv", "data.root": str(path)}
    seen = {data_digest(options)}
    for text in ("b,y\n1,2\n3,4\n", "a,y\n1,2\n3,5\n", "a,y\n9,9\n3,4\n", "a,y\n1,2\n3,4\n5,6\n"):
        path.write_text(text)
        os.utime(path, ns=(0, len(seen)))
        seen.add(data_digest(options))
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("config", "grid", "option"),
    [
        ("test: never", [], "test: got never in c"),
        ("trainer: {limit_test_batches: 0}", [], "trainer.limit_test_batches: got 0 in c"),
        ("trainer: {limit_test_batches: 0.0}", [], "trainer.limit_test_batches: got 0.0 in c"),
        ("trainer: {logger: false}", [], "trainer.logger: got false in c"),
        ("trainer: {fast_dev_run: true}", [], "trainer.fast_dev_run: got true in c"),
        ("trainer: {fast_dev_run: 3}", [], "trainer.fast_dev_run: got 3 in c"),
        ("trainer: {enable_checkpointing: false}", [], "trainer.enable_checkpointing: got false in c"),
        ("trainer.logger: false", [], "trainer.logger: got false in c"),
        ("trainer: trainer.yaml", [], "trainer.logger: got false in c"),
        ("model: {lr: 0.1}", ["test=last,never"], "test: got never in c test=never"),
        ("model: {lr: 0.1}", ["trainer.logger=False"], "trainer.logger: got false in c trainer.logger=False"),
    ],
)
def test_configs_that_leave_no_results_are_refused_before_any_fit(tmp_path, fits, config, grid, option):
    (tmp_path / "trainer.yaml").write_text("logger: false\n")
    (tmp_path / "c.yaml").write_text(config)
    arguments = [str(tmp_path / "c.yaml"), "--logs", str(tmp_path / "logs")]
    with pytest.raises(UserError) as caught:
        compare([*arguments, *(["--grid", *grid] if grid else [])], Path)
    assert str(caught.value).startswith(f"{option}, must be ")
    assert not fits
    # What counts is what the grid sets.
    if not grid and config.startswith("test"):
        (run,) = plan([tmp_path / "c.yaml"], ["test=best"], 1)
        assert run.options["test"] == "best"


GOOD_METRICS = '"test/accuracy": 0.5, "test/loss": 0.5, "seconds": 1, "epochs": 2'


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        "",
        "[1]",
        '{"test/accuracy": 0.5}',
        '{"val/accuracy": 0.5}',
        "\x00",
        "[" * 100_000,
        f'{{{GOOD_METRICS}, "val/accuracy": "high"}}',
        f'{{{GOOD_METRICS}, "test/errors": [3]}}',
        f"{{{GOOD_METRICS.replace('0.5', 'true')}}}",
        f"{{{GOOD_METRICS.replace('0.5', '1' + '0' * 400)}}}",
    ],
    ids=lambda metrics: str(metrics)[:80],
)
def test_a_fit_that_leaves_no_results_is_told(tmp_path, monkeypatch, metrics):
    def fit(command, environment):
        folder = Path(command[command.index("--trainer.default_root_dir") + 1]) / "lightning_logs" / "x" / "version_0"
        folder.mkdir(parents=True)
        if metrics is not None:
            (folder / "metrics.json").write_text(metrics)
        return 0, ""

    monkeypatch.setattr(runs.Children, "run", staticmethod(fit))
    (tmp_path / "c.yaml").write_text("model: {lr: 0.1}")
    with pytest.raises(UserError, match=r"^c, seed 0: the fit left no metrics\.json with the results of a test in"):
        list(execute(plan([tmp_path / "c.yaml"], [], 1), tmp_path / "logs", 1))


def test_no_module_is_taken_from_the_users_folder(tmp_path, monkeypatch):
    (tmp_path / "yaml.py").write_text("open('executed', 'w')\n")
    found = {}

    def fit(command, environment):
        code = "import sys, yaml, mlp_lightning; print(mlp_lightning.__file__)"
        given = subprocess.run([command[0], "-c", code], env=environment, capture_output=True, text=True, check=True)
        found["package"] = given.stdout.strip()
        return 1, "stop"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(runs.Children, "run", staticmethod(fit))
    (tmp_path / "c.yaml").write_text("model: {lr: 0.1}")
    with pytest.raises(UserError, match="stop"):
        list(execute(plan([tmp_path / "c.yaml"], [], 1), tmp_path / "logs", 1))
    assert not (tmp_path / "executed").exists()
    assert Path(found["package"]).parent == fingerprint.PACKAGE


# compare with a fit that waits for a signal, and notes which one came, and how often.
WAITING = """
import json, sys
from pathlib import Path
from mlp_lightning.commands.compare import children
from mlp_lightning.cli import start
fit = '''
import signal, sys, time
got = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: got.append(number))
open(sys.argv[1] + ".up", "w")
while not got:
    time.sleep(0.01)
time.sleep(0.3)
open(sys.argv[1] + ".got", "w").write(" ".join(str(int(number)) for number in got))
sys.exit(1)
'''
run = children.Children.run
def wait(self, command, environment):
    seed = command[command.index("--seed_everything") + 1]
    return run(self, [sys.executable, "-c", fit, seed], environment)
children.Children.run = wait
start.main(["compare", "c.yaml", "--seeds", "3", "--jobs", "2", "--logs", "logs"])
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=str,
)
def test_a_signal_ends_the_fits_and_waits_for_them(tmp_path, number, status):
    (tmp_path / "c.yaml").write_text("model: {lr: 0.1}")
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(3000):
        if all((tmp_path / f"{seed}.up").exists() for seed in (0, 1)):
            break
        time.sleep(0.01)
    # As from a terminal, whose interrupt goes to the whole group.
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert errors == "stopped\n"
    assert [(tmp_path / f"{seed}.got").read_text() for seed in (0, 1)] == [str(int(number))] * 2
    assert not (tmp_path / "2.up").exists()
