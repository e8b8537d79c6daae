"""Where the samples come from: one table row a data set, read by torchvision into flat float tensors."""

import gzip
import http.client
import os
import pickle
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.sources.packaged import unpack_mnist
from mlp_lightning.errors import UserError
from mlp_lightning.files.atomic import written_beside


class Source(NamedTuple):
    """How torchvision calls a data set (its class is also the name of the folder), and how its files are read."""

    torchvision_class: str
    options: dict[str, Any] = {}  # noqa: RUF012 (a row of a constant table)
    transposed: bool = False
    first_label: int = 0


SOURCES = {
    "mnist": Source("MNIST"),
    "fashion_mnist": Source("FashionMNIST"),
    "kmnist": Source("KMNIST"),
    "qmnist": Source("QMNIST"),
    "emnist_balanced": Source("EMNIST", {"split": "balanced"}, transposed=True),
    "emnist_digits": Source("EMNIST", {"split": "digits"}, transposed=True),
    "emnist_letters": Source("EMNIST", {"split": "letters"}, transposed=True, first_label=1),
}

# Pictures in colour, in another kind of file: how torchvision calls them.
CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}

# Where packages of an operating system lay sets down, as archives: Debian's dataset-fashion-mnist.
INSTALLED = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}

# What torchvision raises for a file that is truncated, or is no IDX file, or no pickle (its old ``processed`` folder).
_UNREADABLE = (
    AssertionError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
_DOWNLOAD_FAILED = (
    EOFError,
    OSError,
    RuntimeError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
_ARCHIVES = (".gz", ".zip", ".xz")


class _Part(NamedTuple):
    images: Tensor  # uint8 (N, height, width)
    labels: Tensor  # int64 (N,)
    class_names: tuple[str, ...]


def load_dataset(name: str, root: str | None) -> Dataset:
    """Read a data set, unpacking (mnist, ``INSTALLED``) or downloading (the others) what is not there yet.

    Args:
        name: A key of ``SOURCES`` or ``CIFAR``.
        root: An existing folder that holds, or gets, ``<torchvision class>/raw``, or ``<torchvision class>`` of CIFAR;
            None for the user's cache folder, ``$XDG_CACHE_HOME/mlp_lightning`` or ``~/.cache/mlp_lightning``.

    Raises:
        UserError: no such data set or folder, a failed download, or files that are damaged or do not fit together.
    """
    if name not in SOURCES and name not in CIFAR:
        raise UserError(f"data.dataset: got {name!r}, must be one of {', '.join([*SOURCES, *CIFAR])}")
    folder = _folder(root)
    if name in CIFAR:
        return _load_cifar(name, folder / CIFAR[name])
    source = SOURCES[name]
    raw = folder / source.torchvision_class / "raw"
    if name == "mnist":
        unpack_mnist(folder)
    try:
        train, test = _read_parts(source, folder)
    except FileNotFoundError:
        if not _unpack_installed(name, raw):
            _download(name, source, raw)
        train, test = _read_parts(source, folder)
    for part in (train, test):
        _check(part, source, raw)
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = f"{tuple(train.images.shape[1:])} and {tuple(test.images.shape[1:])}"
        raise UserError(f"data.root: training and test images in {raw} have different shapes, {shapes}")
    height, width = train.images.shape[1:]
    return Dataset(
        *(_pixels(train.images), train.labels),
        *(_pixels(test.images), test.labels),
        image_shape=(height, width),
        class_names=train.class_names,
    )


def _folder(root: str | None) -> Path:
    if root is not None:
        folder = Path(root).expanduser()
        # An empty name would mean the folder in which the command is given.
        if not root or not os.path.isdir(folder):
            raise UserError(f"data.root: got {root or 'nothing'}, must be an existing folder")
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The XDG specification: a path that is not absolute counts as unset.
        folder = (cache if cache.is_absolute() else Path.home() / ".cache") / "mlp_lightning"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"data.root: no cache folder can be made ({error}); give an existing folder") from error
    return folder


def _read_parts(source: Source, folder: Path, download: bool = False) -> tuple[_Part, _Part]:
    return _read_part(source, folder, True, download), _read_part(source, folder, False, download)


def _read_part(source: Source, folder: Path, train: bool, download: bool) -> _Part:
    """The training or the test part; FileNotFoundError if its files are not there."""
    from torchvision import datasets  # here, since it takes a second to import

    dataset_class = getattr(datasets, source.torchvision_class)
    try:
        dataset = dataset_class(str(folder), train=train, download=download, **source.options)
    except _UNREADABLE as error:
        if download:
            raise
        if str(error).startswith("Dataset not found"):
            raise FileNotFoundError from error
        part = "training" if train else "test"
        raise UserError(
            f"data.root: the {part} files in {folder / source.torchvision_class} cannot be read ({_one_line(error)}); "
            "put whole ones there, or delete them"
        ) from error
    images = dataset.data.transpose(1, 2) if source.transposed else dataset.data
    # A label of QMNIST is a row that holds the class, then the writer.
    labels = dataset.targets if dataset.targets.ndim == 1 else dataset.targets[:, 0]
    # torchvision's names are "0 - zero" for digits, and "N/A" where labels begin at 1.
    class_names = tuple(label.split(" - ")[0] for label in dataset.classes[source.first_label :])
    return _Part(images, labels.long() - source.first_label, class_names)


def _unpack_installed(name: str, raw: Path) -> bool:
    """Unpack a set that the operating system has into ``raw``; tells whether there was one.

    torchvision would not: it knows its archives by an MD5, and these were packed anew.
    """
    archives = sorted(INSTALLED[name].glob("*-ubyte.gz")) if name in INSTALLED else []
    try:
        for archive in archives:
            raw.mkdir(parents=True, exist_ok=True)
            with written_beside(raw / archive.stem) as temporary:
                temporary.write_bytes(gzip.decompress(archive.read_bytes()))
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"data.root: cannot unpack {archive} to {raw} ({_one_line(error)})") from error
    return bool(archives)


def _download(name: str, source: Source, raw: Path) -> None:
    """Download into a scratch folder and move the files to ``raw`` once they are whole and can be read."""
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=raw) as scratch:
            scratch_raw = Path(scratch) / source.torchvision_class / "raw"
            scratch_raw.mkdir(parents=True)
            # Archives that were put there by hand need no download: torchvision looks at their MD5.
            for archive in raw.iterdir():
                if archive.suffix in _ARCHIVES:
                    shutil.copy(archive, scratch_raw)
            _read_parts(source, Path(scratch), download=True)
            for file in scratch_raw.iterdir():
                if file.suffix not in _ARCHIVES:
                    os.replace(file, raw / file.name)
    except _DOWNLOAD_FAILED as error:
        raise UserError(
            f"data.dataset: {name} is not in {raw} and its download failed ({_one_line(error)}); "
            "its files can be put there by hand, packed or unpacked"
        ) from error


def _load_cifar(name: str, folder: Path) -> Dataset:
    """CIFAR, flattened in the order height, width, colour; torchvision compares every file's MD5 before it reads it."""
    from torchvision import datasets

    dataset_class = getattr(datasets, CIFAR[name])
    try:
        try:
            parts = [dataset_class(str(folder), train=train) for train in (True, False)]
        except RuntimeError as error:
            # Missing or damaged, torchvision says in one sentence: either way a download mends it.
            if not str(error).startswith("Dataset not found"):
                raise
            _download_cifar(dataset_class, folder)
            parts = [dataset_class(str(folder), train=train) for train in (True, False)]
    except (*_DOWNLOAD_FAILED, *_UNREADABLE) as error:
        with suppress(OSError):
            folder.rmdir()
        raise UserError(
            f"data.dataset: {name} is not in {folder} and its download failed ({_one_line(error)}); "
            f"its archive {dataset_class.filename} can be put there by hand"
        ) from error
    (train_x, train_y), (test_x, test_y) = (
        (_pixels(torch.from_numpy(part.data)), torch.tensor(part.targets, dtype=torch.int64)) for part in parts
    )
    return Dataset(train_x, train_y, test_x, test_y, (32, 32, 3), tuple(parts[0].classes))


def _download_cifar(dataset_class: Any, folder: Path) -> None:
    """As ``_download``: nothing stands in ``folder`` before all of it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch, _archives_within_their_folder():
        archive = folder / dataset_class.filename
        if archive.is_file():
            shutil.copy(archive, scratch)
        for train in (True, False):
            dataset_class(scratch, train=train, download=True)
        unpacked = folder / dataset_class.base_folder
        unpacked.mkdir(exist_ok=True)
        for file in (Path(scratch) / dataset_class.base_folder).iterdir():
            os.replace(file, unpacked / file.name)


@contextmanager
def _archives_within_their_folder() -> Iterator[None]:
    """Let torchvision unpack no member that would land elsewhere; a zip's never do. Python 3.14 does so by itself.

    Raises:
        UserError: Python is older than 3.11.4, which brought the check of members.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("data.dataset: an archive is unpacked safely from Python 3.11.4 on; unpack it by hand")
    before = tarfile.TarFile.extraction_filter
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _check(part: _Part, source: Source, raw: Path) -> None:
    images, labels, class_names = part
    if len(images) != len(labels) or len(images) == 0:
        raise UserError(
            f"data.root: {raw} holds {len(images)} images and {len(labels)} labels, must be as many, at least 1"
        )
    wrong = (labels < 0) | (labels >= len(class_names))
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        first, last = source.first_label, source.first_label + len(class_names) - 1
        raise UserError(
            f"data.root: sample {index} in {raw} has label {int(labels[index]) + first}, must be in {first} … {last}"
        )


def _pixels(images: Tensor) -> Tensor:
    return images.reshape(len(images), -1).to(torch.float32).div_(255)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "wrong header or length"
