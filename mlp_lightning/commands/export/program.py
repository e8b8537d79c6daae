"""The whole program, from a sample as the user has it to probabilities, in torch's own operations."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mlp_lightning.commands.export.network import torch_network
from mlp_lightning.data.preprocessing import CategoricalColumn, ImagePreprocessing, TablePreprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.model import Model

InputName = Literal["uint8", "float32"]


class Pixels(nn.Module):
    """Images (B, height, width) or (B, height, width, 3), or rows (B, D), to ``(B, D)``.

    Bytes are divided by 255, unless the training's ``divisor`` is 1.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, divisor: int | None) -> None:
        super().__init__()
        self.shape = shape
        self.dtype = dtype
        self.divisor = 1 if dtype != torch.uint8 or divisor == 1 else 255

    def example(self) -> Tensor:
        """Two samples."""
        return torch.zeros((2, *self.shape), dtype=self.dtype)

    def forward(self, samples: Tensor) -> Tensor:
        """In float32, as in training, whatever the weights have."""
        x = samples.flatten(1).to(torch.float32)
        return x if self.divisor == 1 else x / self.divisor


class Cells(nn.Module):
    """Rows of a table, (B, columns), to ``(B, D)``: numbers standardised, categories one-hot.

    A category is given as its place among its column's categories, a missing value as NaN. What the command ``predict``
    refuses (a missing value where none was filled in, an unknown category where none was allowed) becomes NaN here,
    and so do the row's probabilities.

    Every buffer has an entry for each of the D features: ``source`` is its column, ``category`` the one whose presence
    it tells, or NaN for a number.
    """

    source: Tensor
    category: Tensor
    last: Tensor
    strict: Tensor
    fill: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: TablePreprocessing) -> None:
        super().__init__()
        self.columns = len(preprocessing.columns)
        features = []
        for source, column in enumerate(preprocessing.columns):
            if isinstance(column, CategoricalColumn):
                places = {category: float(place) for place, category in enumerate(column.categories)}
                fill = math.nan if column.fill is None else places.get(column.fill, -1.0)
                last, strict = len(places) - 1.0, column.unknown == "error"
                features += [(source, place, last, strict, fill, 0.0, 1.0) for place in places.values()]
            else:
                fill = math.nan if column.fill is None else column.fill
                features.append((source, math.nan, math.nan, False, fill, column.mean, column.std))
        names = ("source", "category", "last", "strict", "fill", "mean", "std")
        for name, values in zip(names, zip(*features, strict=True), strict=True):
            dtype = {"source": torch.int64, "strict": torch.bool}.get(name, torch.float64)
            self.register_buffer(name, torch.tensor(values, dtype=dtype))

    def example(self) -> Tensor:
        """Two samples."""
        return torch.zeros((2, self.columns), dtype=torch.float64)

    def forward(self, samples: Tensor) -> Tensor:
        """In float64 until x is made: a large number with a small deviation keeps its digits."""
        values = samples.index_select(1, self.source)
        values = torch.where(values.isnan(), self.fill, values)
        known = (values == values.floor()) & (values >= 0) & (values <= self.last)
        present = (values == self.category).to(values.dtype)
        one_hot = torch.where(values.isnan() | (self.strict & ~known), math.nan, present)
        x = torch.where(self.category.isnan(), (values - self.mean) / self.std, one_hot)
        return x.to(torch.float32)


class Program(nn.Module):
    """softmax(network(x)) ``(B, K)`` of samples as the user has them.

    Args:
        model: what is exported.
        given: the type of images and of arrays; None for uint8 images and float32 arrays. Tables are float64.
        dtype: of weights and probabilities; None for the network's.

    Raises:
        UserError: ``given`` names a type for a table.
    """

    def __init__(self, model: Model, given: InputName | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.features = _features(model, given)
        self.dtype = dtype or model.network.flat.dtype
        self.network = torch_network(model.network).to(self.dtype)
        self.requires_grad_(False).eval()

    def forward(self, samples: Tensor) -> Tensor:
        """Probabilities."""
        return self.network(self.features(samples).to(self.dtype)).softmax(1)


def _features(model: Model, given: InputName | None) -> Pixels | Cells:
    preprocessing = model.preprocessing
    if isinstance(preprocessing, TablePreprocessing):
        if given is not None:
            raise UserError(f"--input: got {given}, but the model's data are a table, whose rows are always float64")
        return Cells(preprocessing)
    if isinstance(preprocessing, ImagePreprocessing):
        return Pixels(preprocessing.image_shape, getattr(torch, given or "uint8"), preprocessing.divisor)
    return Pixels((preprocessing.n_features,), getattr(torch, given or "float32"), preprocessing.divisor)
