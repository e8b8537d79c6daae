import gzip
import hashlib
import pickle
import string
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.sources import torchvision_sets as sources
from mlp_lightning.data.sources.torchvision_sets import SOURCES, load_dataset
from mlp_lightning.errors import UserError

ToIdx = Callable[..., bytes]
WriteFashion = Callable[..., Path]
IMAGES = np.arange(36, dtype=np.uint8).reshape(6, 2, 3)
LABELS = np.arange(6)
DIGITS = tuple(string.digits)
BALANCED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def message_of(name: str, root: Path | str | None) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(name, None if root is None else str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="session")
def mnist(mnist_root: Path) -> Dataset:
    return load_dataset("mnist", str(mnist_root))


@pytest.mark.parametrize(("part", "prefix", "n"), [("train", "train", 60_000), ("test", "t10k", 10_000)])
def test_mnist_is_the_file_over_255(mnist: Dataset, mnist_root: Path, part: str, prefix: str, n: int) -> None:
    x, y = getattr(mnist, f"{part}_x"), getattr(mnist, f"{part}_y")
    raw = mnist_root / "MNIST" / "raw"
    pixels = np.fromfile(raw / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16).reshape(n, 784)
    labels = np.fromfile(raw / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
    assert (x.dtype, x.shape, y.dtype, y.shape) == (torch.float32, (n, 784), torch.int64, (n,))
    assert x.is_contiguous()
    assert np.array_equal(x.numpy(), pixels / np.float32(255))
    assert np.array_equal(y.numpy(), labels)


def test_mnist_describes_itself(mnist: Dataset) -> None:
    assert mnist.class_names == DIGITS
    assert (mnist.n_features, mnist.n_classes, mnist.image_shape) == (784, 10, (28, 28))
    assert mnist.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_y[:5].tolist() == [7, 2, 1, 0, 4]
    # The mean and deviation that everybody normalises with.
    assert round(mnist.train_x.mean().item(), 4) == 0.1307
    assert round(mnist.train_x.std().item(), 4) == 0.3081


@pytest.fixture
def write_set(tmp_path: Path, to_idx: ToIdx) -> Callable[..., Path]:
    """Write the tiny set that ``name`` stands for, in the layout and the orientation of its files."""

    def write(name: str, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS) -> Path:
        folder = tmp_path / SOURCES[name].torchvision_class / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("train", "test"):
            stored, kind, stem, end = images, "uint8", part.replace("test", "t10k"), "labels-idx1-ubyte"
            rows = labels
            if name.startswith("emnist"):
                stem = f"emnist-{name.removeprefix('emnist_')}-{part}"
                stored = images.transpose(0, 2, 1)
            if name == "qmnist":
                stem, kind, end = f"qmnist-{part}", "int32", "labels-idx2-int"
                rows = np.stack([labels, *([70_000 + labels] * 7)], 1)
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(to_idx(stored))
            (folder / f"{stem}-{end}").write_bytes(to_idx(rows, kind))
        return folder

    return write


@pytest.mark.parametrize(
    ("name", "stored_labels", "class_names"),
    [
        ("fashion_mnist", LABELS, tuple(datasets.FashionMNIST.classes)),
        ("kmnist", LABELS, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
        ("qmnist", LABELS, DIGITS),
        ("emnist_balanced", LABELS, BALANCED),
        ("emnist_digits", LABELS, DIGITS),
        ("emnist_letters", LABELS + 1, tuple(string.ascii_lowercase)),
    ],
)
def test_set_by_name(
    tmp_path: Path, write_set: Callable[..., Path], name: str, stored_labels: np.ndarray, class_names: tuple[str, ...]
) -> None:
    write_set(name, labels=stored_labels)
    before = files_below(tmp_path)
    data = load_dataset(name, str(tmp_path))
    assert data.class_names == class_names
    assert data.n_classes == len(class_names)
    assert data.image_shape == (2, 3)
    assert data.n_features == 6
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        assert x.is_contiguous()
        assert np.array_equal(x.numpy(), IMAGES.reshape(6, 6) / np.float32(255))
        assert (y.dtype, y.tolist()) == (torch.int64, LABELS.tolist())
    assert files_below(tmp_path) == before


def test_table_names_classes_of_torchvision() -> None:
    assert all(issubclass(getattr(datasets, source.torchvision_class), datasets.MNIST) for source in SOURCES.values())


def test_emnist_balanced_has_47_classes() -> None:
    assert len(BALANCED) == 47


def test_last_letter_is_class_25(tmp_path: Path, write_set: Callable[..., Path]) -> None:
    write_set("emnist_letters", labels=np.array([26, 1, 26, 1, 26, 1]))
    data = load_dataset("emnist_letters", str(tmp_path))
    assert [data.class_names[k] for k in data.train_y.tolist()] == ["z", "a", "z", "a", "z", "a"]


@pytest.mark.parametrize(
    ("name", "label", "wanted"),
    [
        ("fashion_mnist", 10, "0 … 9"),
        ("fashion_mnist", 255, "0 … 9"),
        ("qmnist", -1, "0 … 9"),
        ("emnist_balanced", 47, "0 … 46"),
        ("emnist_letters", 0, "1 … 26"),
        ("emnist_letters", 27, "1 … 26"),
    ],
)
def test_label_out_of_range(tmp_path: Path, write_set: Callable[..., Path], name: str, label: int, wanted: str) -> None:
    raw = write_set(name, labels=np.array([1, 2, 3, label, 1, 2]))
    message = message_of(name, tmp_path)
    assert message == f"data.root: sample 3 in {raw} has label {label}, must be in {wanted}"


DAMAGES = [
    pytest.param(lambda b: b"", id="empty"),
    pytest.param(lambda b: b[:3], id="half a magic number"),
    pytest.param(lambda b: b[:10], id="half a header"),
    pytest.param(lambda b: b[: len(b) - 1], id="one byte short"),
    pytest.param(lambda b: b + b"\0", id="one byte long"),
    pytest.param(lambda b: b"\x1f\x8b\x08\x00" + b[4:], id="a gzip magic number"),
    pytest.param(lambda b: b[:2] + b"\x0a" + b[3:], id="a type that IDX lacks"),
    pytest.param(lambda b: b[:2] + b"\x0d" + b[3:], id="another type"),
    pytest.param(lambda b: b[:3] + b"\x02" + b[4:], id="another number of dimensions"),
    pytest.param(lambda b: b[:4] + b"\xff\xff\xff\xff" + b[8:], id="four thousand million samples"),
    pytest.param(lambda b: b"<!DOCTYPE html><html>404</html>", id="a web page"),
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "file", "part"),
    [
        ("fashion_mnist", "train-images-idx3-ubyte", "training"),
        ("fashion_mnist", "t10k-labels-idx1-ubyte", "test"),
        ("qmnist", "qmnist-test-images-idx3-ubyte", "test"),
        ("emnist_digits", "emnist-digits-train-images-idx3-ubyte", "training"),
    ],
)
def test_damaged_file(
    tmp_path: Path, write_set: Callable[..., Path], name: str, file: str, part: str, damage: Callable[[bytes], bytes]
) -> None:
    path = write_set(name) / file
    path.write_bytes(damage(path.read_bytes()))
    message = message_of(name, tmp_path)
    assert message.startswith(f"data.root: the {part} files in {path.parent.parent} cannot be read (")
    assert "(); " not in message, "no reason is given"


@pytest.mark.parametrize("left", [0, 6, 12, -1, -4])
def test_truncated_labels_of_qmnist(tmp_path: Path, write_set: Callable[..., Path], left: int) -> None:
    path = write_set("qmnist") / "qmnist-test-labels-idx2-int"
    path.write_bytes(path.read_bytes()[:left])
    assert message_of("qmnist", tmp_path).startswith(f"data.root: the test files in {tmp_path / 'QMNIST'} cannot be ")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        pytest.param((IMAGES, LABELS[:5]), None, "holds 6 images and 5 labels", id="a label missing"),
        pytest.param(None, (IMAGES[:5], LABELS), "holds 5 images and 6 labels", id="an image missing"),
        pytest.param((IMAGES[:0], LABELS[:0]), None, "training files .* cannot be read", id="no training samples"),
        pytest.param(None, (IMAGES[:0], LABELS[:0]), "test files .* cannot be read", id="no test samples"),
        pytest.param(None, (IMAGES.reshape(6, 3, 2), LABELS), r"different shapes, \(2, 3\) and \(3, 2\)", id="shapes"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, write_fashion: WriteFashion, train, test, message: str) -> None:
    write_fashion(train=train, test=test)
    with pytest.raises(UserError, match=rf"^data\.root: .*{message}"):
        load_dataset("fashion_mnist", str(tmp_path))


def test_damaged_files_of_an_old_torchvision(tmp_path: Path, write_fashion: WriteFashion) -> None:
    processed = write_fashion().parent / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(b"no pickle")
    assert f"training files in {processed.parent} cannot be read" in message_of("fashion_mnist", tmp_path)


def test_damaged_mnist_is_found_before_torchvision_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"short")
    assert message_of("mnist", tmp_path).startswith(f"data.root: {path} is damaged: 5 bytes")


def test_unknown_name() -> None:
    message = message_of("imagenet", None)
    assert message.startswith("data.dataset: got 'imagenet', must be one of mnist, fashion_mnist, ")
    assert all(name in message for name in SOURCES)


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
@pytest.mark.parametrize("kind", ["missing", "file"])
def test_root_must_be_a_folder(tmp_path: Path, name: str, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.touch()
    assert message_of(name, root) == f"data.root: got {root}, must be an existing folder"


def test_root_in_the_home_folder(tmp_path: Path, write_fashion: WriteFashion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_fashion(tmp_path / "data" / "FashionMNIST" / "raw")
    assert len(load_dataset("fashion_mnist", "~/data").train_y) == 6


@pytest.mark.parametrize(
    ("xdg", "cache"),
    [
        pytest.param("{tmp}/xdg", "xdg/mlp_lightning", id="absolute"),
        pytest.param("", "home/.cache/mlp_lightning", id="empty"),
        pytest.param("relative", "home/.cache/mlp_lightning", id="relative counts as unset"),
        pytest.param(None, "home/.cache/mlp_lightning", id="unset"),
    ],
)
def test_cache_folder(
    tmp_path: Path, write_fashion: WriteFashion, monkeypatch: pytest.MonkeyPatch, xdg: str | None, cache: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg.format(tmp=tmp_path))
    write_fashion(tmp_path / cache / "FashionMNIST" / "raw")
    assert load_dataset("fashion_mnist", None).train_y.tolist() == LABELS.tolist()


def test_cache_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    message = message_of("mnist", None)
    assert message.startswith("data.root: no cache folder can be made (")
    assert str(tmp_path / "file") in message


@pytest.fixture
def local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision fetches file:// addresses, too (its own function asks the answer for a length, which they lack)."""

    def fetch(url: str, filename: str) -> None:
        with urllib.request.urlopen(url) as answer:
            Path(filename).write_bytes(answer.read())

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)


@pytest.fixture
def mirror(tmp_path: Path, write_fashion: WriteFashion, monkeypatch: pytest.MonkeyPatch, local_server: None) -> Path:
    """A folder that plays the server of Fashion-MNIST, with the checksums of its tiny files."""
    folder = write_fashion(tmp_path / "server", packed=True)
    names = [name for name, _ in datasets.FashionMNIST.resources]
    checksums = [(name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for name in names]
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [folder.as_uri() + "/"])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", checksums)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


FASHION_FILES = {
    f"FashionMNIST/raw/{name}"
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
}


@pytest.mark.usefixtures("mirror")
def test_download(root: Path) -> None:
    assert load_dataset("fashion_mnist", str(root)).train_y.tolist() == LABELS.tolist()
    assert files_below(root) == FASHION_FILES
    assert not list(root.rglob(".download-*"))


def test_archives_put_there_by_hand_are_not_downloaded(root: Path, mirror: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.parent.mkdir()
    mirror.rename(raw)
    packed = files_below(root)
    assert load_dataset("fashion_mnist", str(root)).test_y.tolist() == [0, 1, 2]
    assert files_below(root) == FASHION_FILES | packed


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="not on the server"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-5]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b"<html>moved</html>"), id="a web page"),
    ],
)
@pytest.mark.parametrize("present", [False, True], ids=["nothing there", "one file there"])
def test_failed_download(root: Path, mirror: Path, damage: Callable[[Path], object], present: bool) -> None:
    raw = root / "FashionMNIST" / "raw"
    if present:
        raw.mkdir(parents=True)
        (raw / "train-labels-idx1-ubyte").write_bytes(
            gzip.decompress((mirror / "train-labels-idx1-ubyte.gz").read_bytes())
        )
    before = files_below(root)
    damage(mirror / "t10k-images-idx3-ubyte.gz")
    for _ in range(2):
        message = message_of("fashion_mnist", root)
        assert message.startswith(f"data.dataset: fashion_mnist is not in {raw} and its download failed (")
        assert message.endswith("its files can be put there by hand, packed or unpacked")
    assert files_below(root) == before
    assert not list(root.rglob(".download-*"))


@pytest.mark.usefixtures("mirror")
def test_interrupted_download_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = datasets.FashionMNIST._check_exists
    with monkeypatch.context() as patch:

        def interrupted(self: datasets.FashionMNIST) -> bool:
            if check(self):
                assert any("ubyte" in name for name in files_below(root)), "too early to tell"
                raise KeyboardInterrupt
            return False

        patch.setattr(datasets.FashionMNIST, "_check_exists", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("fashion_mnist", str(root))
    assert files_below(root) == set()
    assert not list(root.rglob(".download-*"))
    assert load_dataset("fashion_mnist", str(root)).n_classes == 10


@pytest.fixture
def installed(tmp_path: Path, write_fashion: WriteFashion) -> Path:
    return write_fashion(sources.INSTALLED["fashion_mnist"], packed=True)


def test_set_of_the_operating_system_is_unpacked(root: Path, installed: Path) -> None:
    (installed / "README.gz").write_bytes(b"no archive")
    data = load_dataset("fashion_mnist", str(root))
    assert (data.train_y.tolist(), data.test_y.tolist()) == (LABELS.tolist(), [0, 1, 2])
    assert files_below(root) == FASHION_FILES


@pytest.mark.usefixtures("mirror")
def test_empty_folder_of_the_operating_system_is_passed_over(root: Path, installed: Path) -> None:
    for archive in installed.iterdir():
        archive.unlink()
    assert load_dataset("fashion_mnist", str(root)).train_y.tolist() == LABELS.tolist()


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"x", lambda b: b[:30] + b"!!!!" + b[34:]])
def test_damaged_set_of_the_operating_system(root: Path, installed: Path, damage: Callable[[bytes], bytes]) -> None:
    path = installed / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    message = message_of("fashion_mnist", root)
    assert message.startswith(f"data.root: cannot unpack {path} to {root / 'FashionMNIST' / 'raw'} (")
    assert files_below(root) == set()


@pytest.mark.parametrize("name", ["qmnist", "emnist_digits"])
def test_failed_download_of_other_layouts(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    nowhere = (root / "nowhere.gz").as_uri()
    monkeypatch.setattr(datasets.EMNIST, "url", nowhere)
    monkeypatch.setattr(datasets.QMNIST, "resources", {"train": [(nowhere, "0"), (nowhere, "0")]})
    assert message_of(name, root).startswith(f"data.dataset: {name} is not in {root}")
    assert files_below(root) == set()


@pytest.mark.usefixtures("local_server")
def test_download_of_all_emnist_sets_at_once(
    tmp_path: Path, root: Path, write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set("emnist_digits")
    raw = write_set("emnist_letters", labels=LABELS + 1)
    server = tmp_path / "gzip.zip"
    with zipfile.ZipFile(server, "w") as archive:
        for file in raw.iterdir():
            archive.writestr(f"gzip/{file.name}.gz", gzip.compress(file.read_bytes()))
    monkeypatch.setattr(datasets.EMNIST, "url", server.as_uri())
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5(server.read_bytes()).hexdigest())
    assert load_dataset("emnist_digits", str(root)).image_shape == (2, 3)
    server.unlink()
    assert load_dataset("emnist_letters", str(root)).train_y.tolist() == LABELS.tolist()
    assert files_below(root) == {f"EMNIST/raw/{file.name}" for file in raw.iterdir()}


@pytest.mark.usefixtures("local_server")
def test_download_of_qmnist(
    tmp_path: Path, root: Path, write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_set("qmnist")
    resources: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for part, files in resources.items():
        for file in (f"qmnist-{part}-images-idx3-ubyte", f"qmnist-{part}-labels-idx2-int"):
            packed = tmp_path / f"{file}.gz"
            packed.write_bytes(gzip.compress((raw / file).read_bytes()))
            files.append((packed.as_uri(), hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.QMNIST, "resources", resources)
    assert load_dataset("qmnist", str(root)).test_y.tolist() == LABELS.tolist()
    assert files_below(root) == {f"QMNIST/raw/{file.name}" for file in raw.iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_unwritable_root_of_a_download() -> None:
    assert message_of("kmnist", "/proc").startswith("data.dataset: kmnist is not in /proc/KMNIST/raw and its download")


def write_cifar(root: Path, name: str, n: int = 4) -> None:
    """Its files as torchvision reads them, of a few pictures."""
    source = getattr(datasets, sources.CIFAR[name])
    folder = root / sources.CIFAR[name] / source.base_folder
    folder.mkdir(parents=True)
    # Stored are the planes of red, of green and of blue, one after the other.
    images = np.arange(n * 3072, dtype=np.uint32).reshape(n, 3072).astype(np.uint8)
    labels = "labels" if name == "cifar10" else "fine_labels"
    for file, _ in source.train_list + source.test_list:
        (folder / file).write_bytes(pickle.dumps({"data": images, labels: list(range(n))}))
    names = {source.meta["key"]: [f"class {k}" for k in range(10 if name == "cifar10" else 100)]}
    (folder / source.meta["filename"]).write_bytes(pickle.dumps(names))


@pytest.mark.parametrize(("name", "n_classes", "files"), [("cifar10", 10, 5), ("cifar100", 100, 1)])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, n_classes: int, files: int) -> None:
    write_cifar(tmp_path, name)
    source = getattr(datasets, sources.CIFAR[name])
    monkeypatch.setattr(source, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load_dataset(name, str(tmp_path))
    assert (data.n_classes, data.image_shape, data.class_names[1]) == (n_classes, (32, 32, 3), "class 1")
    assert (len(data.train_y), len(data.test_y)) == (4 * files, 4)
    stored = np.arange(4 * 3072, dtype=np.uint32).reshape(4, 3, 32, 32).astype(np.uint8)
    assert np.array_equal(data.test_x.numpy(), stored.transpose(0, 2, 3, 1).reshape(4, -1) / np.float32(255))
    assert data.preprocessing.to_dict() == {"kind": "image", "height": 32, "width": 32, "channels": 3, "divisor": 255}


def test_cifar_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    message = message_of("cifar10", tmp_path)
    assert "cifar10 is not in" in message
    assert "cifar-10-python.tar.gz can be put there by hand" in message
    assert not any(tmp_path.iterdir())
