"""Readers of files from elsewhere, given bytes at random and whole files with wounds.

Each either reads, and then what it returns has a shape that can be trained on, or raises UserError in one line: never
another error, never without end, and never with more memory than the file itself could fill.
"""

import gzip
import io
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlp_lightning.cli.config_files import find_config
from mlp_lightning.data import load_dataset
from mlp_lightning.data.images.pictures import read_picture
from mlp_lightning.data.sources import torchvision_sets as sources
from mlp_lightning.data.sources.options import SourceOptions
from mlp_lightning.data.sources.own import load_own
from mlp_lightning.data.tabular.tables import read_table
from mlp_lightning.errors import UserError
from mlp_lightning.files import seal
from mlp_lightning.files.checkpoint_file import FORMAT_KEY, read_checkpoint

LONGEST = 20  # seconds for one file of a few hundred bytes, on a machine that has other work
RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype("u1").tobytes()


def saved(write: Callable[..., object], *what: object, **more: object) -> bytes:
    file = io.BytesIO()
    write(file, *what, **more)
    return file.getvalue()


def sealed(contents: dict) -> bytes:
    buffer = io.BytesIO()
    file = seal.SealingFile(buffer)
    torch.save({**contents, FORMAT_KEY: seal.FORMAT}, file)
    file.seal()
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """Stored and not deflated, so that wounds reach the arrays."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", saved(lambda file, array: np.save(file, array), array))
    return file.getvalue()


IMAGES, LABELS = idx(RNG.integers(0, 256, (12, 2, 3))), idx(np.arange(12) % 10)
X, Y = RNG.random((12, 3)), np.arange(12) % 2
CHECKPOINT = {"state_dict": {"w": torch.arange(3.0)}, "hyper_parameters": {}, "sizes": [3, 1], "history": {}}
CHECKPOINT |= {"window": {}, "global_step": 5}


def write_idx(folder: Path, images: bytes) -> Path:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "train-images-idx3-ubyte").write_bytes(images)
    (raw / "train-labels-idx1-ubyte").write_bytes(LABELS)
    (raw / "t10k-images-idx3-ubyte").write_bytes(IMAGES)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(LABELS)
    return folder


def read_idx(folder: Path, contents: bytes) -> None:
    data = load_dataset("fashion_mnist", str(write_idx(folder, contents)))
    assert data.train_x.shape == (12, data.n_features)
    assert data.train_y.shape == (12,)
    assert float(data.train_x.min()) >= 0
    assert float(data.train_x.max()) <= 1


def read_packed_idx(folder: Path, contents: bytes) -> None:
    """An archive that was laid down by the operating system."""
    installed = folder / "installed"
    installed.mkdir(exist_ok=True)
    for name, held in (("train-images-idx3", None), ("train-labels-idx1", LABELS)):
        (installed / f"{name}-ubyte.gz").write_bytes(contents if held is None else gzip.compress(held))
    for name, held in (("t10k-images-idx3", IMAGES), ("t10k-labels-idx1", LABELS)):
        (installed / f"{name}-ubyte.gz").write_bytes(gzip.compress(held))
    for file in folder.rglob("*-ubyte"):
        file.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.INSTALLED, "fashion_mnist", installed)
        assert load_dataset("fashion_mnist", str(folder)).train_x.shape[0] == 12


def read_csv(folder: Path, contents: bytes) -> None:
    (folder / "it.csv").write_bytes(contents)
    table = read_table(folder / "it.csv")
    assert table.n_rows >= 1
    assert all(len(cells) == table.n_rows for cells in table.values())


def own(kind: str, root: Path, **options: object) -> None:
    data = load_own(kind, SourceOptions(root=str(root), **options), torch.arange)
    n, d = data.train_x.shape
    assert n == len(data.train_y) >= 1
    assert d == data.n_features >= 1
    assert torch.isfinite(data.train_x[:]).all()
    assert 0 <= int(data.train_y.min()) <= int(data.train_y.max()) < data.n_classes


def train_csv(folder: Path, contents: bytes) -> None:
    (folder / "it.csv").write_bytes(contents)
    own("csv", folder / "it.csv", label="y")


def read_npz(folder: Path, contents: bytes) -> None:
    (folder / "it.npz").write_bytes(contents)
    own("arrays", folder / "it.npz")


def read_npy(folder: Path, contents: bytes) -> None:
    (folder / "arrays").mkdir(exist_ok=True)
    (folder / "arrays" / "x.npy").write_bytes(contents)
    np.save(folder / "arrays" / "y.npy", Y)
    own("arrays", folder / "arrays")


def read_config(folder: Path, contents: bytes) -> None:
    (folder / "it.yaml").write_bytes(contents)
    path = find_config(str(folder / "it.yaml"), folder)
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def read_ckpt(folder: Path, contents: bytes) -> None:
    (folder / "it.ckpt").write_bytes(contents)
    checkpoint = read_checkpoint(folder / "it.ckpt")
    assert isinstance(checkpoint["state_dict"], dict)
    assert all(isinstance(size, int) for size in checkpoint["sizes"])


def read_png(folder: Path, contents: bytes) -> None:
    (folder / "it.png").write_bytes(contents)
    assert read_picture(folder / "it.png", 3, 4, 1).shape == (3, 4)


def picture(kind: str) -> bytes:
    from PIL import Image

    return saved(Image.fromarray(RNG.integers(0, 256, (5, 4)).astype("u1")).save, kind)


TABLE = "a,b,y\n" + "".join(f"{k}.5,{'uv'[k % 2]},{'no' if k % 3 else 'yes'}\n" for k in range(12))
CONFIG = """model: &m
  hidden: [4, 5]
  lr: 1.0e-3
data:
  <<: {dataset: csv}
  label: 'y'
trainer: {max_epochs: 3}
"""
READERS: dict[str, tuple[Callable[[Path, bytes], None], bytes]] = {
    "idx": (read_idx, IMAGES),
    "idx, packed": (read_packed_idx, gzip.compress(IMAGES)),
    "table": (read_csv, TABLE.encode()),
    "table that trains": (train_csv, TABLE.encode()),
    "npz": (read_npz, npz(x=X, y=Y)),
    "npy": (read_npy, saved(np.save, X)),
    "config": (read_config, CONFIG.encode()),
    "checkpoint": (read_ckpt, sealed(CHECKPOINT)),
    "checkpoint without a seal": (read_ckpt, saved(lambda file, held: torch.save(held, file), CHECKPOINT)),
    "png": (read_png, picture("png")),
    "gif": (read_png, picture("gif")),
    "tiff": (read_png, picture("tiff")),
    "bmp": (read_png, picture("bmp")),
}


@st.composite
def wounded(draw: st.DrawFn, whole: bytes) -> bytes:
    """``whole`` after a few flips, cuts, insertions and repetitions."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        # Half of the wounds go to the first bytes, where most formats have what the rest is read by.
        limit = draw(st.sampled_from([min(len(data), 130), len(data)]))
        start = draw(st.integers(0, max(0, limit - 1)))
        length = draw(st.integers(0, min(40, len(data) - start)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "end", "huge"]))
        if kind == "flip" and data:
            data[start] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[start : start + length]
        elif kind == "insert":
            data[start:start] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "repeat":
            data[start:start] = data[start : start + length]
        elif kind == "end":
            del data[start:]
        else:
            # Numbers that claim more than there is, in both orders of bytes and as digits.
            data[start : start + 4] = draw(st.sampled_from([b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"9999999999"]))
    return bytes(data)


def reads_or_refuses(name: str, folder: Path, contents: bytes) -> None:
    read, _ = READERS[name]
    started, said = time.monotonic(), "it was read"
    try:
        read(folder, contents)
    except UserError as error:
        said = str(error)
    # The command line puts the lines of a parser's message into one.
    assert 0 < len(said.strip()) < 1000
    assert time.monotonic() - started < LONGEST


def fuzz(name: str, folder: Path, examples: int) -> None:
    _, whole = READERS[name]

    @settings(deadline=None, max_examples=examples, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(contents=st.one_of(wounded(whole), wounded(whole), wounded(whole), st.binary(max_size=60)))
    def run(contents: bytes) -> None:
        reads_or_refuses(name, folder, contents)

    run()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "INSTALLED", {})
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a download was tried"))


@pytest.mark.parametrize("name", READERS)
def test_the_whole_file_is_read(name: str, tmp_path: Path) -> None:
    """So that a reader that refuses everything does not pass for one that holds."""
    read, whole = READERS[name]
    read(tmp_path, whole)


# What torchvision, numpy and pillow have to say of a file is said in the one line.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_any_other_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, examples=40)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_many_other_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, examples=2000)
