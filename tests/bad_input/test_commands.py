"""Wrong arguments of the commands that need no parser of Lightning's, and of those that look at one step."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning.commands.compare import runs

LONG = "o" * 300

COMPARE = {
    "": ("compare: got no config",),
    "gone.yaml": ("--config: there is no file 'gone.yaml'", "relu.yaml"),
    "c.yaml --seeds 0": ("--seeds: got 0", "at least 1"),
    "c.yaml --seeds -1": ("--seeds: got -1", "at least 1"),
    "c.yaml --seeds three": ("--seeds", "'three'"),
    "c.yaml --seeds 1.5": ("--seeds", "'1.5'"),
    "c.yaml --jobs 0": ("--jobs: got 0", "at least 1"),
    "c.yaml --jobs two": ("--jobs", "'two'"),
    "c.yaml --ensemble --seeds 1": ("--ensemble", "--seeds 1", "at least 2"),
    "c.yaml --grid": ("--grid", "expected at least one argument"),
    "c.yaml --grid model.lr": ("--grid: got model.lr", "option=value"),
    "c.yaml --grid =": ("--grid: got =", "option=value"),
    "c.yaml --grid =0.1": ("--grid: got =0.1", "option=value"),
    "c.yaml --grid model.lr=": ("--grid: got model.lr=", "option=value"),
    "c.yaml --grid model.lr=1,,2": ("--grid: got model.lr=1,,2", "option=value"),
    "c.yaml --grid model.lr=1,": ("--grid: got model.lr=1,", "option=value"),
    "c.yaml --grid --model.lr=1": ("--grid", "expected at least one argument"),
    "c.yaml --grid model.lr=1 model.lr=2": ("--grid: got model.lr twice",),
    "c.yaml --grid model.hidden=[1,2": ("--grid: got model.hidden=[1,2", "brackets"),
    "c.yaml --grid model.hidden=1],2": ("--grid: got model.hidden=1],2", "brackets"),
    "c.yaml --foo": ("compare", "--foo"),
    "c.yaml --logs file": ("--logs: got file", "must be a folder"),
    "c.yaml --logs file/below": ("--logs: got file/below", "cannot be made"),
    "c.yaml --logs /proc/runs": ("--logs: got /proc/runs", "cannot be made"),
}
INIT = {
    "": ("init", "CONFIG"),
    "my.yaml --data.dataset foo": ("data.dataset", "got foo", "mnist"),
    "my.yaml --data.dataset": ("data.dataset", "nothing"),
    "my.yaml --data.dataset csv": ("data.root: got null", "csv"),
    "my.yaml --data.dataset csv --data.root it.csv": ("data.label: got nothing", "it.csv: a, b, y"),
    "my.yaml --data.dataset csv --data.root ''": ("data.root: got nothing",),
    "my.yaml --data.dataset csv --data.root empty --data.label y": ("empty", "no header"),
    "my.yaml --data.dataset csv --data.root a.png --data.label y": ("a.png", "UTF-8"),
    "my.yaml --data.dataset csv --data.root pipe --data.label y": ("data.root: got", "pipe, but there is no such file"),
    f"my.yaml --data.dataset csv --data.root {LONG} --data.label y": ("data.root", "no such file"),
    "my.yaml --data.dataset csv --data.root it.csv --data.label y --data.test_size 29": ("data.test_size: got 29",),
    "my.yaml --data.dataset csv --data.root it.csv --data.label y --data.batch_size 0": ("data.batch_size", "got 0"),
    "my.yaml --data.dataset csv --data.root it.csv --data.label y --data.seed 3": ("data.seed",),
    "my.yaml --data.dataset arrays --data.root empty": ("empty", "cannot be read"),
    "my.yaml --data.dataset image_folder --data.root file": ("data.root: got", "file, must be a folder"),
    "my.yaml --data.dataset mnist --data.root gone": ("data.root: got", "gone, must be an existing folder"),
    "gone/my.yaml --data.dataset csv --data.root it.csv --data.label y": ("gone/my.yaml", "existing folder"),
    "'' --data.dataset csv --data.root it.csv --data.label y": ("init", "must be a file"),
    "file/my.yaml --data.dataset csv --data.root it.csv --data.label y": ("file/my.yaml", "existing folder"),
    f"{LONG} --data.dataset csv --data.root it.csv --data.label y": ("init", "File name too long"),
    "it.csv --force --data.dataset csv --data.root it.csv --data.label y": ("it.csv", "data.root itself"),
}
DRAW = {
    "": ("--ckpt_path", "required"),
    "--ckpt_path it.ckpt --port -1": ("--port: got -1", "0 … 65535"),
    "--ckpt_path it.ckpt --port x": ("--port", "'x'"),
    "--ckpt_path it.ckpt --port 1.5": ("--port", "'1.5'"),
    f"--ckpt_path it.ckpt --port {10**30}": ("--port", "0 … 65535"),
    "--ckpt_path it.ckpt --port": ("--port", "expected one argument"),
    "--ckpt_path '' --port 0": ("--ckpt_path",),
    f"--ckpt_path {LONG} --port 0": ("--ckpt_path: there is no file",),
    "--ckpt_path file --port 0": ("--ckpt_path", "file", "damaged"),
    "--ckpt_path pipe --port 0": ("--ckpt_path: there is no file pipe",),
    "--ckpt_path best --port 0": ("--ckpt_path: got best", "lightning_logs"),
}
EXPORT = {
    "": ("--ckpt_path", "required"),
    f"--ckpt_path {LONG} --format torch --output x": ("--ckpt_path: there is no file",),
    "--ckpt_path a.png --format torch --output x": ("--ckpt_path", "a.png", "damaged"),
    "--ckpt_path /dev/null --format torch --output x": ("--ckpt_path: there is no file /dev/null",),
    "--ckpt_path last --format torch --output x": ("--ckpt_path: got last", "lightning_logs"),
    "--ckpt_path it.ckpt --format torch --output /proc/x": ("--output: /proc/x cannot be written",),
    "--ckpt_path it.ckpt --format onnx --output x --input int8": ("--input", "int8", "uint8"),
}
PREDICT = {
    f"--ckpt_path it.ckpt --input {LONG}": ("--input: there is no file",),
    f"--ckpt_path {LONG} --input a.png": ("--ckpt_path: there is no file",),
    "--ckpt_path it.ckpt --input pipe": ("--input: there is no file pipe",),
    "--ckpt_path it.ckpt --input /dev/null": ("--input: there is no file /dev/null",),
    "--ckpt_path it.ckpt --input it.ckpt": ("it.ckpt: is no picture",),
    "--ckpt_path it.ckpt --input empty": ("empty: the file is empty",),
    "--ckpt_path it.ckpt --input it.csv": ("it.csv: cannot be used", "grey pictures of 2 × 3"),
    "--ckpt_path it.ckpt --input cut.png": ("cut.png: cannot be read as a picture",),
    "--ckpt_path it.ckpt --input script.png": ("script.png: is no picture in a known format",),
    "--ckpt_path it.ckpt --input bomb.png": ("bomb.png: cannot be read as a picture", "400000000 pixels"),
    "--ckpt_path it.ckpt --input empty.npy": ("empty.npy: cannot be read as a NumPy file",),
    "--ckpt_path it.ckpt --input objects.npy": ("objects.npy: holds Python objects",),
    "--ckpt_path it.ckpt --input words.npy": ("words.npy: holds <U1", "must be numbers"),
    "--ckpt_path it.ckpt --input complex.npy": ("complex.npy: holds complex128", "must be numbers"),
    "--ckpt_path it.ckpt --input none.npy": ("none.npy: has no rows",),
    "--ckpt_path it.ckpt --input large.npy": ("large.npy, row 0, column 0: got 1e+300", "must be finite"),
    "--ckpt_path it.ckpt --input scalar.npy": ("scalar.npy: has the shape ()",),
    "--ckpt_path it.ckpt --input three.npz": ("three.npz: has the arrays a, b, c", "x or x_test"),
    "--ckpt_path it.ckpt --input labels.npz": ("labels.npz: y has 3 labels", "must have 2"),
    "--ckpt_path it.ckpt --input classes.npz": ("classes.npz, row 0 of y", "'77'", "no class"),
    "--ckpt_path it.ckpt --input a.png --top 1.5": ("--top", "'1.5'"),
    "--ckpt_path it.ckpt --input a.png --output /proc/x": ("--output", "/proc/x"),
    "--ckpt_path it.ckpt --input a.png --output a.png": ("--output", "a.png", "an input"),
    "--ckpt_path it.ckpt --input a.png --contact_sheet data": ("--contact_sheet", "data", "must be a file"),
}
ALL = {"compare": COMPARE, "init": INIT, "draw": DRAW, "export": EXPORT, "predict": PREDICT}


@pytest.fixture
def furnished(here: Path, trained: bytes, huge_picture: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with a file of every kind."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a fit was started")

    monkeypatch.setattr(runs.Children, "run", refuse)
    (here / "it.ckpt").write_bytes(trained)
    (here / "c.yaml").write_text("data: {dataset: fashion_mnist, root: data}\n")
    rows = "".join(f"{k},{'uv'[k % 2]},{'no' if k % 2 else 'yes'}\n" for k in range(30))
    (here / "it.csv").write_text(f"a,b,y\n{rows}")
    (here / "file").write_text("a file")
    (here / "empty").touch()
    (here / "empty.npy").touch()
    os.mkfifo(here / "pipe")
    Image.new("L", (3, 2), 7).save(here / "a.png")
    (here / "cut.png").write_bytes((here / "a.png").read_bytes()[:45])
    (here / "script.png").write_text("%!PS-Adobe-3.0\n(touch pwned) run\n")
    (here / "bomb.png").write_bytes(huge_picture)
    np.save(here / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(here / "words.npy", np.full((2, 6), "a"))
    np.save(here / "complex.npy", np.zeros((2, 6), complex))
    np.save(here / "none.npy", np.zeros((0, 6)))
    np.save(here / "large.npy", np.full((2, 6), 1e300))
    np.save(here / "scalar.npy", np.float64(3))
    np.savez(here / "three.npz", a=np.zeros(1), b=np.zeros(1), c=np.zeros(1))
    np.savez(here / "labels.npz", x=np.zeros((2, 6)), y=np.zeros(3))
    np.savez(here / "classes.npz", x=np.zeros((2, 6)), y=np.full(2, 77))
    return here


@pytest.mark.parametrize(("command", "options"), [(command, options) for command in ALL for options in ALL[command]])
def test_a_light_command(command: str, options: str, furnished: Path, error_of: Callable[..., str]) -> None:
    message = error_of(f"{command} {options}")
    assert all(part in message for part in ALL[command][options]), message
    assert not (furnished / "pwned").exists()


EXPLAIN = {
    "--sample -1": ("--sample: got -1", "from 0 to 29"),
    "--sample 1000": ("--sample: got 1000", "from 0 to 29"),
    "--sample one": ("sample: got one", "a whole number"),
    "--sample true": ("sample: got true", "a whole number"),
    "--html gone/x.html": ("--html", "gone"),
    "--html data": ("--html", "data"),
    "--html ''": ("--html",),
    f"--html {LONG}": ("--html", "File name too long"),
    "--ckpt_path gone.ckpt": ("--ckpt_path: there is no file gone.ckpt",),
    "--ckpt_path data": ("--ckpt_path: got data, but there is no best.ckpt nor last.ckpt",),
    "--trainer.devices 2": ("trainer.devices",),
}
LOOKING = [
    *(("explain", options, expected) for options, expected in EXPLAIN.items()),
    ("check", "--sample 1", ("sample", "no such option")),
    ("check", "--trainer.devices 2", ("trainer.devices",)),
    ("check", "--model.lr -1", ("model.lr", "-1.0", ">= 0")),
    ("check", "--ckpt_path gone.ckpt", ("--ckpt_path: there is no file gone.ckpt",)),
    ("validate", "", ("--ckpt_path: got nothing", "validate needs trained weights")),
    ("validate", "--data.validation none", ("--ckpt_path: got nothing",)),
    ("test", "", ("--ckpt_path: got nothing", "test needs trained weights", "best or last")),
    ("validate", "--ckpt_path auto", ("--ckpt_path: got auto", "last, best, a file or a folder")),
    ("test", "--ckpt_path ''", ("--ckpt_path: there is no file",)),
    ("test", "--model.hiden 3", ("model.hiden", "did you mean model.hidden?")),
    ("check", "--data.root gone", ("data.root: got gone", "existing folder")),
    ("test", "stray", ("stray", "no such option")),
]


@pytest.mark.parametrize(("command", "options", "expected"), LOOKING, ids=[f"{row[0]} {row[1]}" for row in LOOKING])
def test_a_command_that_looks_at_steps(
    command: str, options: str, expected: tuple[str, ...], error_of: Callable[..., str]
) -> None:
    message = error_of(f"{command} FIT {options}")
    assert all(part in message for part in expected), message


CHECKPOINTS = {
    "hyper_parameters": (None, "its hyper_parameters is"),
    "state_dict": ([1], "its state_dict is"),
    "history": (3, "its history is"),
    "data": ("text", "its data is"),
    "datamodule_hyper_parameters": (3, "its datamodule_hyper_parameters is"),
    "loops": (3, "its loops is"),
    "callbacks": ([3], "its callbacks is"),
    "optimizer_states": ({}, "its optimizer_states is"),
}
SIZES = [None, [6, -4, 10], [6, 4.5, 10], "abc", ["a", "b"], [6, "4", 10]]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *((key, *row) for key, row in CHECKPOINTS.items()),
        *(("sizes", sizes, "its sizes") for sizes in SIZES),
    ],
)
def test_a_checkpoint_with_other_things_in_it(
    key: str, value: object, expected: str, here: Path, trained: bytes, error_of: Callable[..., str]
) -> None:
    (here / "it.ckpt").write_bytes(trained)
    contents = torch.load(here / "it.ckpt", weights_only=True)
    del contents["mlp_lightning_format"]
    torch.save({**contents, key: value}, here / "it.ckpt")
    Image.new("L", (3, 2), 7).save(here / "a.png")
    message = error_of("predict --ckpt_path it.ckpt --input a.png")
    assert message.startswith("error: --ckpt_path: it.ckpt is not a checkpoint of this trainer, ")
    assert expected in message
