"""The source ``image_folder``: a folder of pictures for each class."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlp_lightning.data.classes import encoded, names_of
from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.images.picture_files import by_suffix, find_pictures, note_left_out
from mlp_lightning.data.images.pictures import open_picture, pixels, resized
from mlp_lightning.data.notes import note
from mlp_lightning.data.preprocessing import ImagePreprocessing
from mlp_lightning.data.sources.folder_parts import class_folders, folder_parts
from mlp_lightning.data.sources.options import SourceOptions, existing
from mlp_lightning.data.sources.own import Split, Trained, set_apart
from mlp_lightning.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


# The pictures of each class, by its folder.
Files = dict[Path, list[Path]]


class _Part(NamedTuple):
    files: list[Path]
    images: "list[Image]"
    labels: list[str]


def load_image_folder(options: SourceOptions, split: Split, trained: Trained | None, test_only: bool) -> Dataset:
    """Read the pictures; the name of its folder is a picture's class.

    ``data.root`` holds a folder for each class, or ``train`` and perhaps ``val`` and ``test`` that do;
    ``data.test_path`` is another test folder. Without test pictures a share of them is set apart.

    Raises:
        UserError: a folder or picture that cannot be read, pictures of several sizes, or more than the memory bears.
    """
    folders = _folders(options, test_only)
    reader = _Reader(options, trained, sum(len(files) for part in folders if part for files in part.values()))
    train, val, test = (None if part is None else reader.part(part) for part in folders)
    assert train is not None
    reader.tell_skipped()
    everything = [part for part in (train, val, test) if part is not None]
    assert reader.shape is not None
    shape, channels = reader.shape, _channels(everything, options, trained)
    reader.check_memory(channels)
    preprocessing = ImagePreprocessing(*shape, channels)
    class_names = names_of(train.labels) if trained is None else trained.class_names
    x, y = _samples(train, preprocessing, class_names)
    test_rows = None
    if test is None:
        train_rows, test_rows = set_apart(y, options, trained)
        parts = (x[train_rows], y[train_rows], x[test_rows], y[test_rows])
    else:
        parts = (x, y, *_samples(test, preprocessing, class_names))
    val_x, val_y = (None, None) if val is None else _samples(val, preprocessing, class_names)
    return Dataset(*parts, preprocessing.image_shape, class_names, preprocessing, val_x, val_y, test_rows)


def _wanted_shape(options: SourceOptions, trained: Trained | None) -> tuple[int, int] | None:
    if trained is None:
        return options.image_size
    known = trained.preprocessing
    if not isinstance(known, ImagePreprocessing):
        raise UserError(f"data.dataset: got image_folder, but the checkpoint was trained on another kind, {known.kind}")
    return known.height, known.width


def _folders(options: SourceOptions, test_only: bool) -> tuple[Files, Files | None, Files | None]:
    """The pictures of each class in the training, the validation and the test part."""
    test = None
    if options.test_path is not None:
        place = existing(options.test_path, "test_path")
        if not place.is_dir():
            raise UserError(f"data.test_path: got {place}, must be a folder with a folder of pictures for each class")
        parts = folder_parts(place, "test_path")
        if parts.test is None and parts.train != place:
            raise UserError(f"data.test_path: {place} has train, but no folder test; must have one, or be one")
        test = parts.test or place
    if test_only:
        return {}, None, None if test is None else _files(test)
    root = existing(str(options.root), "root")
    if not root.is_dir():
        raise UserError(f"data.root: got {options.root}, must be a folder with a folder of pictures for each class")
    parts = folder_parts(root)
    if test is not None and parts.test is not None:
        note(f"{parts.test}: its pictures are left out, since data.test_path is the test set")
    test = test or parts.test
    train = _files(parts.train)
    val_files, test_files = (None if part is None else _files(part) for part in (parts.val, test))
    return train, val_files, test_files


def _files(folder: Path) -> Files:
    """The pictures of each class; a note says what else is in its folders."""
    files, left_out = {}, Counter[str]()
    for each in class_folders(folder):
        found = find_pictures(each)
        left_out += found.left_out
        files[each] = found.files
        if not found.files:
            held = f"; it holds {by_suffix(found.left_out)}" if found.left_out else ""
            raise UserError(f"data.root: {each} holds no picture that can be read{held}")
    note_left_out(folder, left_out)
    return files


class _Reader:
    """Reads pictures and holds them at the size that the network takes."""

    def __init__(self, options: SourceOptions, trained: Trained | None, count: int) -> None:
        self.options, self.count = options, count
        self.shape = _wanted_shape(options, trained)
        self._scales = self.shape is not None
        self._skipped: list[Path] = []
        if self.shape is not None:
            self.check_memory(1)

    def part(self, files: Files) -> _Part:
        """All pictures of a part."""
        part = _Part([], [], [])
        for folder, pictures in files.items():
            before = len(part.files)
            for file in pictures:
                image = self._read(file)
                if image is not None:
                    part.files.append(file)
                    part.images.append(image)
                    part.labels.append(folder.name)
            if len(part.files) == before:
                raise UserError(f"data.root: {folder} holds no picture that can be read")
        return part

    def tell_skipped(self) -> None:
        """Note the pictures that could not be read."""
        for file in self._skipped:
            note(f"left out, since it is no picture that can be read: {file}")

    def check_memory(self, channels: int) -> None:
        """Refuse more pictures than the memory bears, as float32."""
        assert self.shape is not None
        height, width = self.shape
        needed, budget = 4.0 * self.count * height * width * channels, self.options.budget
        if needed > budget:
            raise UserError(
                f"data.image_size: {self.count} pictures of {height} × {width} pixels take {needed / 1e6:,.0f} MB, "
                f"must be at most {budget / 1e6:,.0f} MB, a quarter of the memory; give a smaller [height, width]"
            )

    def _read(self, file: Path) -> "Image | None":
        try:
            image = open_picture(file)
        except UserError as error:
            if not self.options.skip_unreadable:
                raise UserError(f"{error} (data.skip_unreadable: true leaves such files out)") from error
            self._skipped.append(file)
            return None
        if self.shape is None:
            # Before a second one is held.
            self.shape = image.height, image.width
            self.check_memory(3 if image.mode == "RGB" and self.options.channels != "grey" else 1)
        if self._scales:
            return resized(image, *self.shape)
        if (image.height, image.width) != self.shape:
            raise UserError(
                f"{file}: {image.height} × {image.width} pixels, but the pictures before it have "
                f"{self.shape[0]} × {self.shape[1]}; data.image_size [height, width] scales all to one size"
            )
        return image


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
