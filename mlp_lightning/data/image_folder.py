"""The source ``image_folder``: a folder of pictures for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlp_lightning.data.classes import encoded, names_of
from mlp_lightning.data.notes import note
from mlp_lightning.data.own import Split, Trained, set_apart
from mlp_lightning.data.pictures import open_picture, picture_files, pixels, resized
from mlp_lightning.data.preprocessing import ImagePreprocessing
from mlp_lightning.data.source_options import SourceOptions, existing
from mlp_lightning.data.sources import Dataset
from mlp_lightning.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


class _Part(NamedTuple):
    files: list[Path]
    images: "list[Image]"
    labels: list[str]


def load_image_folder(options: SourceOptions, split: Split, trained: Trained | None, test_only: bool) -> Dataset:
    """Read the pictures; the name of its folder is a picture's class.

    ``data.root`` holds a folder for each class, or ``train`` and perhaps ``test`` that do; ``data.test_path`` is
    another test folder. Without test pictures a share of them is set apart.

    Raises:
        UserError: a folder or picture that cannot be read, or pictures of several sizes.
    """
    shape = _wanted_shape(options, trained)
    train_folder, test_folder = _folders(options, test_only)
    train = _Part([], [], []) if test_only else _read(train_folder, shape, options.skip_unreadable)
    test = None if test_folder is None else _read(test_folder, shape, options.skip_unreadable)
    everything = [part for part in (train, test) if part is not None]
    if shape is None:
        shape = _common_size(everything)
    channels = _channels(everything, options, trained)
    preprocessing = ImagePreprocessing(*shape, channels)
    class_names = names_of(train.labels) if trained is None else trained.class_names
    x, y = _samples(train, preprocessing, class_names)
    test_rows = None
    if test is None:
        train_rows, test_rows = set_apart(y, options, trained)
        parts = (x[train_rows], y[train_rows], x[test_rows], y[test_rows])
    else:
        parts = (x, y, *_samples(test, preprocessing, class_names))
    return Dataset(*parts, preprocessing.image_shape, class_names, preprocessing, test_rows=test_rows)


def _wanted_shape(options: SourceOptions, trained: Trained | None) -> tuple[int, int] | None:
    if trained is None:
        return options.image_size
    known = trained.preprocessing
    if not isinstance(known, ImagePreprocessing):
        raise UserError(f"data.dataset: got image_folder, but the checkpoint was trained on another kind, {known.kind}")
    return known.height, known.width


def _folders(options: SourceOptions, test_only: bool) -> tuple[Path, Path | None]:
    test = None if options.test_path is None else existing(options.test_path, "test_path")
    if test is not None and not test.is_dir():
        raise UserError(f"data.test_path: got {test}, must be a folder with a folder of pictures for each class")
    if test_only:
        return Path(), test
    root = existing(str(options.root), "root")
    if not root.is_dir():
        raise UserError(f"data.root: got {options.root}, must be a folder with a folder of pictures for each class")
    if not (root / "train").is_dir():
        return root, test
    beside = root / "test"
    return root / "train", test or (beside if beside.is_dir() else None)


def _read(folder: Path, shape: tuple[int, int] | None, skip_unreadable: bool) -> _Part:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise UserError(f"data.root: {folder} has no folders, must have a folder of pictures for each class")
    part = _Part([], [], [])
    skipped = []
    for class_folder in classes:
        files = picture_files(class_folder)
        for file in files:
            try:
                image = open_picture(file)
            except UserError as error:
                if not skip_unreadable:
                    raise UserError(f"{error} (data.skip_unreadable: true leaves such files out)") from error
                skipped.append(file)
                continue
            part.files.append(file)
            part.images.append(image if shape is None else resized(image, *shape))
            part.labels.append(class_folder.name)
        if class_folder.name not in part.labels[-1:]:
            raise UserError(f"data.root: {class_folder} holds no picture that can be read")
    for file in skipped:
        note(f"left out, since it is no picture that can be read: {file}")
    return part


def _common_size(parts: Sequence[_Part]) -> tuple[int, int]:
    """The (height, width) of all pictures."""
    first: Image | None = None
    for part in parts:
        for file, image in zip(part.files, part.images, strict=True):
            first = first or image
            if image.size != first.size:
                raise UserError(
                    f"{file}: {image.height} × {image.width} pixels, but the pictures before it have "
                    f"{first.height} × {first.width}; data.image_size [height, width] scales all to one size"
                )
    assert first is not None
    return first.height, first.width


def _channels(parts: Sequence[_Part], options: SourceOptions, trained: Trained | None) -> int:
    """Those asked for, or 3 if any picture has colours."""
    if trained is not None:
        assert isinstance(trained.preprocessing, ImagePreprocessing)
        return trained.preprocessing.channels
    if options.channels is not None:
        return {"grey": 1, "rgb": 3}[options.channels]
    return 3 if any(image.mode == "RGB" for part in parts for image in part.images) else 1


def _samples(part: _Part, preprocessing: ImagePreprocessing, class_names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    x = np.empty((len(part.images), preprocessing.n_features), dtype=np.float32)
    for row, image in zip(x, part.images, strict=True):
        row[:] = pixels(image, preprocessing.channels).reshape(-1)
    return torch.from_numpy(x), encoded(part.labels, class_names, lambda row: str(part.files[row]))
