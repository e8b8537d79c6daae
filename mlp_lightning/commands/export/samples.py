"""Random samples, once as an exported program is given them and once as our network is."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.commands.export.program import InputName
from mlp_lightning.data.preprocessing import CategoricalColumn, Column, NumericColumn, TablePreprocessing
from mlp_lightning.predicting.model import Model

SAMPLES = 256


class Samples(NamedTuple):
    """``given`` is what ``Program`` takes; ``x`` ``(N, D)`` is what the preprocessing of the training makes of it."""

    given: Tensor
    x: Tensor


def random_samples(model: Model, given: InputName | None, n: int = SAMPLES) -> Samples:
    """The same ones every time: pixels all over their range, numbers around their mean, every kind of category."""
    generator = torch.Generator().manual_seed(0)
    preprocessing = model.preprocessing
    if isinstance(preprocessing, TablePreprocessing):
        values = torch.stack([_values(column, n, generator) for column in preprocessing.columns], 1)
        frame = {
            column.name: [_cell(column, value) for value in values[:, k].tolist()]
            for k, column in enumerate(preprocessing.columns)
        }
        return Samples(values, torch.from_numpy(preprocessing.rows(frame)))
    if not model.image_shape and given != "uint8":
        x = torch.randn(n, preprocessing.n_features, generator=generator)
        return Samples(x, x)
    bits = torch.randint(0, 256, (n, preprocessing.n_features), generator=generator, dtype=torch.uint8)
    x = bits.to(torch.float32) / (1 if preprocessing.divisor == 1 else 255)
    return Samples((x if given == "float32" else bits).reshape(n, *model.image_shape or (-1,)), x)


def _values(column: Column, n: int, generator: torch.Generator) -> Tensor:
    if isinstance(column, CategoricalColumn):
        # One place further is a category that the training has not seen.
        places = column.width + (column.unknown == "zero")
        values = torch.randint(0, places, (n,), generator=generator).to(torch.float64)
    elif column.truth:
        values = torch.randint(0, 2, (n,), generator=generator).to(torch.float64)
    else:
        values = column.mean + 3 * column.std * torch.randn(n, generator=generator, dtype=torch.float64)
    if column.fill is not None:
        values[torch.rand(n, generator=generator) < 0.25] = torch.nan
    return values


def _cell(column: Column, value: float) -> Any:
    """A program's number as the table has it."""
    if value != value:
        return None
    if isinstance(column, NumericColumn):
        return value
    # Longer than every category, hence none of them.
    unknown = "".join(column.categories) + "?"
    return column.categories[int(value)] if value < column.width else unknown
