"""MNIST unpacked once for all tests, and IDX files written by hand for the other sets."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlp_lightning.data.sources import torchvision_sets as sources
from mlp_lightning.data.sources.packaged import unpack_mnist

IDX_TYPES = {"uint8": (8, ">u1"), "int32": (12, ">i4")}


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MNIST; tests only read it."""
    root = tmp_path_factory.mktemp("mnist")
    unpack_mnist(root)
    return root


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets what the operating system happens to have."""
    monkeypatch.setattr(sources, "INSTALLED", {"fashion_mnist": tmp_path / "installed"})


def idx_bytes(array: np.ndarray, kind: str = "uint8") -> bytes:
    """The IDX format: two zero bytes, type, number of dimensions, big-endian uint32 sizes, big-endian data."""
    code, dtype = IDX_TYPES[kind]
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.astype(dtype).tobytes()


@pytest.fixture(scope="session")
def to_idx() -> Callable[..., bytes]:
    return idx_bytes


@pytest.fixture
def write_fashion(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny Fashion-MNIST (6 training and 3 test images of 2 × 3 pixels) and return its folder of files."""

    def write(
        folder: Path | None = None,
        *,
        train: tuple[np.ndarray, np.ndarray] | None = None,
        test: tuple[np.ndarray, np.ndarray] | None = None,
        packed: bool = False,
    ) -> Path:
        folder = folder or tmp_path / "FashionMNIST" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for prefix, n, arrays in (("train", 6, train), ("t10k", 3, test)):
            images, labels = arrays or (np.arange(n * 6).reshape(n, 2, 3), np.arange(n))
            for name, array in (("images-idx3", images), ("labels-idx1", labels)):
                path, contents = folder / f"{prefix}-{name}-ubyte", idx_bytes(array)
                if packed:
                    path, contents = path.with_name(path.name + ".gz"), gzip.compress(contents, mtime=0)
                path.write_bytes(contents)
        return folder

    return write


QUIET = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
SHORT = (
    *("--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"),
    *("--model.hidden", "[8]", "--data.batch_size", "16"),
)


@pytest.fixture
def run_files(run_main: Callable[..., None], tmp_path: Path) -> Callable[..., Path]:
    """A command on files, by default of a short training; returns the folder of its run."""

    def run(command: str, *options: object, short: bool = True) -> Path:
        root = tmp_path / "runs"
        before = set(root.rglob("version_*"))
        run_main(command, *QUIET, *(SHORT if short else ()), "--trainer.default_root_dir", root, *options)
        (folder,) = set(root.rglob("version_*")) - before
        return folder

    return run
