import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_lightning.commands.draw.command import draw
from mlp_lightning.data.preprocessing import ImagePreprocessing, NumericColumn, Preprocessing, TablePreprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.model import Model

ROOT = Path(__file__).resolve().parents[3]
MakeModel = Callable[..., Model]


@pytest.fixture
def checkpoint(make_model: MakeModel, tmp_path: Path) -> Callable[..., Path]:
    """Writes one; of another kind of data if wanted."""

    def write(preprocessing: Preprocessing = ImagePreprocessing(28, 28)) -> Path:  # noqa: B008 (it is frozen)
        network = make_model((preprocessing.n_features, 5, 10), preprocessing).network
        names, described = list("0123456789"), preprocessing.to_dict()
        content = {
            "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
            "hyper_parameters": {"activation": "relu"},
            "datamodule_hyper_parameters": {"dataset": "mnist"},
            "sizes": network.sizes,
            "history": {},
            "window": {},
            "data": {"class_names": names, "image_shape": [], "preprocessing": described},
        }
        path = tmp_path / "some.ckpt"
        torch.save(content, path)
        return path

    return write


def test_serves_until_it_is_interrupted(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "draw", "--ckpt_path", str(checkpoint()), "--port", "0"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell's background job has interrupts ignored, and hands that down.
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, cwd=tmp_path, text=True, env={**os.environ, "BROWSER": "none"}, **pipes) as process:
        assert process.stdout is not None
        assert "784-5-10, relu" in process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(address[0], timeout=20) as response:
            assert b"<!doctype html>" in response.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out.strip(), err) == (0, "", "")


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_outside_its_range(port: int) -> None:
    with pytest.raises(UserError, match=rf"^--port: got {port}, must be in 0 … 65535"):
        draw(["--ckpt_path", "none.ckpt", "--port", str(port)])


def test_port_in_use(checkpoint: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^--port: {port} is in use on 127.0.0.1; give another"):
            draw(["--ckpt_path", str(checkpoint()), "--port", str(port)])


@pytest.mark.parametrize(
    "preprocessing",
    [ImagePreprocessing(2, 2, 3), TablePreprocessing((NumericColumn("width", 1.5, 2.0),), "kind")],
    ids=["colour", "table"],
)
def test_data_that_cannot_be_drawn(preprocessing: Preprocessing, checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"^--ckpt_path: .*some.ckpt was trained on .*, must be grey images to draw$"):
        draw(["--ckpt_path", str(checkpoint(preprocessing)), "--port", "0"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([], "draw: the following arguments are required: --ckpt_path"),
        (["--ckpt_path", "none.ckpt"], "--ckpt_path: there is no file none.ckpt"),
        (["--ckpt_path", "none.ckpt", "--port", "x"], "draw: argument --port: invalid int value: 'x'"),
        (["--ckpt_path", "none.ckpt", "--colour"], "draw: unrecognized arguments: --colour"),
    ],
)
def test_wrong_arguments(line: list[str], said: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        draw(line)
