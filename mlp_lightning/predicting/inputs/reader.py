"""Which kind of input each is: pictures are read here, tables and arrays by those who know them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlp_lightning.data.images.digit_pictures import Invert, mnist_picture
from mlp_lightning.data.images.picture_files import by_suffix, find_pictures, note_left_out
from mlp_lightning.data.images.pictures import open_picture, pixels, read_picture
from mlp_lightning.data.preprocessing import ImagePreprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.inputs.arrays import array_file_parts, array_parts
from mlp_lightning.predicting.inputs.part import Part, refused, rows_at_once, wanted
from mlp_lightning.predicting.inputs.tables import column_parts, table_parts
from mlp_lightning.predicting.model import Model

if TYPE_CHECKING:
    from PIL.Image import Image

# A file or folder, a picture, several of these, an array, or the columns of a table.
Inputs = Union[str, os.PathLike[str], "Image", NDArray, Tensor, Mapping[str, Sequence[Any]], Sequence[Any]]

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})


@dataclass
class Reader:
    """Turns inputs into parts.

    Args:
        model: what the samples are for.
        invert: as in ``mnist_picture``; for pictures that are not centred ``auto`` is ``never``.
        center: whether pictures are scaled and centred as MNIST's were; None for whether the model's were.
        unreadable: gets a line for each picture that cannot be read, in place of a sample.

    Raises:
        UserError: ``center`` for a model of other images than grey ones of 28 × 28 pixels.
    """

    model: Model
    invert: Invert = "auto"
    center: bool | None = None
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.center is None:
            self.center = self.model.centred
        if self.center and self.model.image_shape != (28, 28):
            raise UserError(
                f"center: got true, must be false for {self.model.path}, which takes {wanted(self.model)}; "
                "MNIST's are grey, 28 × 28"
            )

    def parts(self, inputs: Inputs) -> Iterator[Part]:
        """The samples in order.

        Raises:
            UserError: a file that is not there or does not fit the model, a column or row of it likewise, or nothing to
                predict. Pictures that cannot be read are no error, but listed in ``unreadable``.
        """
        if isinstance(inputs, Tensor):
            # NumPy has no bfloat16; float32 holds the same number.
            inputs = inputs.detach().cpu()
            inputs = (inputs.float() if inputs.dtype == torch.bfloat16 else inputs).numpy()
        if isinstance(inputs, np.ndarray):
            yield from array_parts(self.model, inputs)
        elif isinstance(inputs, Mapping) or hasattr(inputs, "columns"):
            yield from column_parts(self.model, inputs)
        else:
            several = isinstance(inputs, Sequence) and not isinstance(inputs, str)
            yield from self._several(list(inputs) if several else [inputs])  # type: ignore[arg-type]

    def _several(self, inputs: Sequence[Any]) -> Iterator[Part]:
        if not inputs:
            raise UserError("input: got nothing to predict")
        pictures: list[Any] = []
        for each in self._found(inputs):
            suffix = "" if not isinstance(each, Path) else ".npy" if each.is_dir() else each.suffix.lower()
            is_picture = suffix not in TABLE_SUFFIXES | ARRAY_SUFFIXES
            if is_picture:
                pictures.append(each)
            if not is_picture or len(pictures) == rows_at_once(self.model):
                yield from self._pictures(pictures)
                pictures = []
            if suffix in TABLE_SUFFIXES:
                yield from table_parts(self.model, each)
            elif suffix in ARRAY_SUFFIXES:
                yield from array_file_parts(self.model, each)
        yield from self._pictures(pictures)

    def _found(self, inputs: Sequence[Any]) -> list[Any]:
        """Pictures as they are, paths as paths, the pictures of a folder in its place, a folder of arrays as it is."""
        found: list[Any] = []
        for each in inputs:
            if not isinstance(each, str | os.PathLike):
                found.append(each)
                continue
            if not os.fspath(each):
                raise UserError("input: got an empty name, must be a file or a folder")
            path = Path(each).expanduser()
            # The functions of os.path take a name that is too long for one that is not there.
            if os.path.isdir(path):
                files, left_out = find_pictures(path)
                if not files and any(path.glob("*.npy")):
                    found.append(path)
                    continue
                if not files:
                    held = f"; it holds {by_suffix(left_out)}" if left_out else ""
                    raise UserError(f"input: there is no picture in the folder {path}{held}")
                note_left_out(path, left_out)
                found += files
            elif os.path.isfile(path):
                found.append(path)
            else:
                raise UserError(f"input: there is no file {path}")
        return found

    def _pictures(self, pictures: Sequence[Any]) -> Iterator[Part]:
        """One part of those pictures that can be read; none if there are none."""
        if pictures and not self.model.image_shape:
            raise refused(self.model, str(pictures[0]) if isinstance(pictures[0], Path) else "the picture")
        arrays, files = [], []
        for picture in pictures:
            file = str(picture) if isinstance(picture, Path) else ""
            try:
                arrays.append(self._picture(picture, file or "the picture"))
            except UserError as error:
                self.unreadable.append(str(error))
            else:
                files.append(file)
        if arrays:
            x = torch.from_numpy(np.stack(arrays).reshape(len(arrays), -1))
            yield Part(x, files, [None] * len(files), [None] * len(files))

    def _picture(self, picture: Any, name: str) -> NDArray[np.float32]:
        if self.center:
            return mnist_picture(pixels(open_picture(picture, name=name), 1), invert=self.invert, name=name)
        kind = self.model.preprocessing
        assert isinstance(kind, ImagePreprocessing)
        array = read_picture(picture, kind.height, kind.width, kind.channels, name=name)
        return 1 - array if self.invert == "always" else array
