"""A folder to give commands in, a checkpoint, and what an error has to be: one line, status 2, nothing written."""

import os
import shlex
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# No row can train for long, should it be taken after all.
FIT = (
    "fit --trainer.accelerator cpu --trainer.devices 1 --trainer.max_epochs 1 --trainer.limit_train_batches 2 "
    "--trainer.log_every_n_steps 1 --trainer.enable_progress_bar false --model.hidden [4] --data.dataset fashion_mnist "
    "--data.root ROOT --data.batch_size 10 --data.validation_size 10"
)


OWN = FIT.partition(" --data.dataset")[0] + " --data.batch_size 5"


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype("u1").tobytes()


def _write_fashion(root: Path, **other: bytes) -> None:
    """Forty training and ten test images of 2 × 3 pixels; ``train_labels=…`` replaces the contents of a file."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, prefix, n in (("train", "train", 40), ("test", "t10k", 10)):
        images, labels = rng.integers(0, 256, (n, 2, 3)), np.arange(n) % 10
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(other.get(f"{part}_images", idx(images)))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(other.get(f"{part}_labels", idx(labels)))


def _contents_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, and where links lead."""
    held = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            held[name] = os.readlink(path).encode()
        elif path.is_file():
            held[name] = path.read_bytes()
    return held


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command is given; there is no network."""

    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.chdir(tmp_path)
    _write_fashion(tmp_path / "data")
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, run_main: Callable[..., None]) -> bytes:
    """The checkpoint of a short run."""
    root = tmp_path_factory.mktemp("trained")
    _write_fashion(root / "data")
    fit = FIT.replace("ROOT", str(root / "data"))
    run_main(*shlex.split(fit), "--trainer.default_root_dir", root, "--test", "never")
    (path,) = root.rglob("last.ckpt")
    return path.read_bytes()


@pytest.fixture
def error_of(here: Path, run_main: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line of error of a command line, which must leave the folder as it was.

    FIT in it stands for a short training on Fashion-MNIST's layout in ``data``, OWN for one that names no data.
    """

    def error(line: str, *, leaves_a_run: bool = False) -> str:
        before = _contents_of(here)
        for word, options in (("FIT", FIT), ("OWN", OWN)):
            # After another command the options alone.
            line = line.replace(f" {word} ", f" {options.removeprefix('fit ')} ").replace(word, options)
        with pytest.raises(SystemExit) as caught:
            run_main(*(part.replace("ROOT", str(here / "data")) for part in shlex.split(line)))
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        *warnings, message = captured.err.splitlines()
        # A training may have told what it saw coming.
        assert all(leaves_a_run and warning.startswith("warning: layer") for warning in warnings)
        assert message.startswith("error: ")
        after = _contents_of(here)
        if leaves_a_run:
            after = {name: held for name, held in after.items() if not name.startswith("lightning_logs/")}
        assert after == before
        return message

    return error


@pytest.fixture(scope="session")
def write_fashion() -> Callable[..., None]:
    return _write_fashion


@pytest.fixture(scope="session")
def contents_of() -> Callable[[Path], dict[str, bytes]]:
    return _contents_of


@pytest.fixture(scope="session")
def huge_picture() -> bytes:
    """The beginning of a PNG file that promises 20,000 × 20,000 pixels."""

    def chunk(kind: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))

    head = chunk(b"IHDR", struct.pack(">2I5B", 20_000, 20_000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
