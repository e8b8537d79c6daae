"""Archives from elsewhere: nothing is written outside their folder, and nothing stays of what is cut or altered."""

import gzip
import hashlib
import io
import pickle
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from mlp_lightning.data import load_dataset
from mlp_lightning.data.sources import torchvision_sets
from mlp_lightning.errors import UserError


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(autouse=True)
def local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision fetches file:// addresses, too (its own function asks the answer for a length, which they lack)."""

    def fetch(url: str, filename: str) -> None:
        with urllib.request.urlopen(url) as answer:
            Path(filename).write_bytes(answer.read())

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "a" / "root, ü und 数"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes the archive of a tiny CIFAR-10, whose checksums are those of its files; with further members if asked."""
    source = datasets.CIFAR10
    images = np.arange(2 * 3072, dtype=np.uint32).reshape(2, 3072).astype(np.uint8)
    files = {
        name: pickle.dumps({"data": images, "labels": [k, 9 - k]})
        for k, (name, _) in enumerate(source.train_list + source.test_list)
    }
    names = pickle.dumps({"label_names": [f"class {k}" for k in range(10)]})

    def make(*members: tarfile.TarInfo) -> Path:
        path = tmp_path / "server.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, held in {**files, source.meta["filename"]: names}.items():
                member = tarfile.TarInfo(f"{source.base_folder}/{name}")
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))
            for member in members:
                archive.addfile(member, io.BytesIO(b"!" * member.size))
        sums = {name: hashlib.md5(held).hexdigest() for name, held in files.items()}
        monkeypatch.setattr(source, "url", path.as_uri())
        monkeypatch.setattr(source, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
        monkeypatch.setattr(source, "train_list", [[name, sums[name]] for name, _ in source.train_list])
        monkeypatch.setattr(source, "test_list", [[name, sums[name]] for name, _ in source.test_list])
        monkeypatch.setattr(source, "meta", {**source.meta, "md5": hashlib.md5(names).hexdigest()})
        return path

    return make


def member(name: str, link: str | None = None, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    if link is None:
        info.size = 5
    else:
        info.type, info.linkname = kind, link
    return info


def test_cifar_is_downloaded_and_unpacked(root: Path, cifar: Callable[..., Path]) -> None:
    cifar()
    data = load_dataset("cifar10", str(root))
    assert (len(data.train_y), len(data.test_y), data.class_names[3]) == (10, 2, "class 3")
    assert below(root) == {
        "CIFAR10",
        "CIFAR10/cifar-10-batches-py",
        *(f"CIFAR10/cifar-10-batches-py/data_batch_{k}" for k in range(1, 6)),
        "CIFAR10/cifar-10-batches-py/test_batch",
        "CIFAR10/cifar-10-batches-py/batches.meta",
    }


def test_an_archive_put_there_by_hand_is_kept(root: Path, cifar: Callable[..., Path]) -> None:
    archive = root / "CIFAR10" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    cifar().rename(archive)
    assert len(load_dataset("cifar10", str(root)).test_y) == 2
    assert archive.is_file()


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("cifar-10-batches-py/../../../evil")],
        [member("/tmp/mlp_lightning_evil")],
        [member("out", "../.."), member("out/evil")],
        [member("out", "/tmp"), member("out/mlp_lightning_evil")],
        [member("hard", "../../evil", tarfile.LNKTYPE)],
        [member("device", "", tarfile.CHRTYPE)],
    ],
    ids=["above", "far above", "absolute", "through a link", "through an absolute link", "hard link", "device"],
)
def test_no_member_lands_outside(members, root: Path, cifar: Callable[..., Path], tmp_path: Path) -> None:
    cifar(*members)
    before = below(tmp_path)
    try:
        load_dataset("cifar10", str(root))
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either end is right: refused, or put where it belongs)
    new = below(tmp_path) - before
    assert all(name.startswith(str((root / "CIFAR10").relative_to(tmp_path))) for name in new), new
    assert not any("evil" in name for name in new)
    assert not Path("/tmp/mlp_lightning_evil").exists()


@pytest.mark.parametrize("altered", [lambda b: b[:-20], lambda b: b"", lambda b: b[:50] + b"!" + b[51:]])
def test_an_altered_archive_leaves_nothing(altered, root: Path, cifar: Callable[..., Path]) -> None:
    path = cifar()
    path.write_bytes(altered(path.read_bytes()))
    with pytest.raises(UserError, match=r"cifar10 is not in .* and its download failed"):
        load_dataset("cifar10", str(root))
    assert below(root) == set()
    cifar()
    assert len(load_dataset("cifar10", str(root)).test_y) == 2


def test_an_interrupted_download_leaves_nothing(root: Path, cifar, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar()

    def cut(url: str, filename: str) -> None:
        Path(filename).write_bytes(b"the first bytes")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.utils._urlretrieve", cut)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("cifar10", str(root))
    assert {name for name in below(root) if name != "CIFAR10"} == set()
    assert len(load_dataset("cifar10", str(root)).test_y) == 2


def test_no_member_of_a_zip_lands_outside(
    root: Path, tmp_path: Path, to_idx: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "gzip.zip"
    with zipfile.ZipFile(server, "w") as archive:
        for part in ("train", "test"):
            for name, array in (("images-idx3", np.zeros((6, 2, 3))), ("labels-idx1", np.arange(6))):
                archive.writestr(f"gzip/emnist-digits-{part}-{name}-ubyte.gz", gzip.compress(to_idx(array)))
        for name in ("../../../evil", "gzip/../../../evil", "/tmp/mlp_lightning_evil"):
            archive.writestr(name, b"evil")
    monkeypatch.setattr(datasets.EMNIST, "url", server.as_uri())
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5(server.read_bytes()).hexdigest())
    before = below(tmp_path)
    assert load_dataset("emnist_digits", str(root)).image_shape == (3, 2)
    place = str((root / "EMNIST").relative_to(tmp_path))
    assert all(name.startswith(place) for name in below(tmp_path) - before)
    assert not Path("/tmp/mlp_lightning_evil").exists()


def test_a_python_that_checks_no_members_is_refused(monkeypatch):
    monkeypatch.delattr("tarfile.data_filter")
    unpacks = torchvision_sets._archives_within_their_folder()
    with pytest.raises(UserError, match=r"^data\.dataset: an archive is unpacked safely from Python 3\.11\.4 on"):
        unpacks.__enter__()
