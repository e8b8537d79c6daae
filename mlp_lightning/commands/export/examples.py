"""The lines that load an exported file: Python that runs as it stands, with comments on what goes in and comes out."""

from pathlib import Path

from mlp_lightning.commands.export.network import torch_network
from mlp_lightning.commands.export.program import InputName, Program
from mlp_lightning.data.preprocessing import ArrayPreprocessing, CategoricalColumn, Column, ImagePreprocessing
from mlp_lightning.predicting.model import Model


def example(name: str, model: Model, given: InputName | None, path: Path) -> str:
    """Source text for the file at ``path``, in the format of this name."""
    if name in ("torch_export", "onnx"):
        program = Program(model, given)
        sample = program.features.example()[:1]
        about, shape, dtype = _about_samples(model, bits=sample.itemsize == 1), tuple(sample.shape), str(sample.dtype)
        load = _torch_export(path, shape, dtype) if name == "torch_export" else _onnx(path, shape, dtype)
    else:
        about = _about_x(model)
        load = _torch(model, path) if name == "torch" else _safetensors(path)
    classes = f"probabilities: (B, {len(model.class_names)}), of the classes {list(model.class_names)}"
    return "\n".join([*(f"# {line}" for line in (*about, classes)), *load])


def _torch(model: Model, path: Path) -> list[str]:
    dtype = model.network.flat.dtype
    layers = ", ".join(f"nn.{layer!r}" for layer in torch_network(model.network))
    return [
        "import torch",
        "from torch import nn",
        f"network = nn.Sequential({layers}).to({dtype}).eval()",
        f"network.load_state_dict(torch.load({str(path)!r}, weights_only=True))",
        f"probabilities = network(torch.zeros(1, {model.network.sizes[0]}, dtype={dtype})).softmax(1)",
    ]


def _torch_export(path: Path, shape: tuple[int, ...], dtype: str) -> list[str]:
    return [
        "import torch",
        f"program = torch.export.load({str(path)!r}).module()",
        f"samples = torch.zeros({shape}, dtype={dtype})",
        "probabilities = program(samples)",
    ]


def _onnx(path: Path, shape: tuple[int, ...], dtype: str) -> list[str]:
    return [
        "import numpy as np",
        "import onnxruntime",
        f"session = onnxruntime.InferenceSession({str(path)!r})",
        f"samples = np.zeros({shape}, dtype={dtype.replace('torch', 'np')})",
        '(probabilities,) = session.run(["probabilities"], {"samples": samples})',
    ]


def _safetensors(path: Path) -> list[str]:
    return [
        "from safetensors import safe_open",
        f'with safe_open({str(path)!r}, framework="pt") as file:',
        "    about = file.metadata()  # sizes, activation, norm, class_names, preprocessing: each of them JSON",
        "    weights = {name: file.get_tensor(name) for name in file.keys()}",
    ]


def _about_x(model: Model) -> list[str]:
    """What x is, which is made outside of the file."""
    preprocessing = model.preprocessing
    x = f"x: (B, {preprocessing.n_features})"
    if isinstance(preprocessing, ImagePreprocessing):
        return [f"{x}, the pixels of images {_lengths(preprocessing)}, flattened in this order, from 0 to 1"]
    if isinstance(preprocessing, ArrayPreprocessing):
        scale = "as they are" if preprocessing.divisor == 1 else "as they are, bytes divided by 255"
        return [f"{x}, the numbers {scale}"]
    return [
        f"{x}, side by side, without missing values:",
        *(f"  {_entries(column)}" for column in preprocessing.columns),
    ]


def _entries(column: Column) -> str:
    if isinstance(column, CategoricalColumn):
        listed = ", ".join(repr(category) for category in column.categories)
        return f"{column.name!r}: an entry for each of {listed}: 1 for the one that it is, else 0"
    return f"{column.name!r}: (value - {column.mean!r}) / {column.std!r}{_truth(column)}"


def _about_samples(model: Model, *, bits: bool) -> list[str]:
    """What goes into a whole program."""
    preprocessing = model.preprocessing
    if isinstance(preprocessing, ImagePreprocessing):
        shape = ", ".join(str(length) for length in preprocessing.image_shape)
        values = "from 0 to 255" if bits and preprocessing.divisor != 1 else "from 0 to 1"
        return [f"samples: (B, {shape}), images {_lengths(preprocessing)}, {values}, as those of the training were"]
    if isinstance(preprocessing, ArrayPreprocessing):
        values = ", from 0 to 255" if bits and preprocessing.divisor != 1 else ""
        return [f"samples: (B, {preprocessing.n_features}), the numbers as they are{values}"]
    n = len(preprocessing.columns)
    return [
        f"samples: (B, {n}), the columns of the table in this order; a text, which no tensor holds, by its number:",
        *(f"  {_given(column)}" for column in preprocessing.columns),
        "  a row with what is not allowed gets NaN for its probabilities",
    ]


def _given(column: Column) -> str:
    if isinstance(column, CategoricalColumn):
        numbers = ", ".join(f"{place} = {category!r}" for place, category in enumerate(column.categories))
        other = "not allowed" if column.unknown == "error" else "-1"
        said = f"{column.name!r}: {numbers}, another category {other}"
    else:
        said = f"{column.name!r}: the number as it is{_truth(column)}"
    return f"{said}, missing {'not allowed' if column.fill is None else 'NaN'}"


def _truth(column: Column) -> str:
    return "" if isinstance(column, CategoricalColumn) or not column.truth else " (true 1, false 0)"


def _lengths(preprocessing: ImagePreprocessing) -> str:
    lengths = f"{preprocessing.height} high, {preprocessing.width} wide"
    return lengths if preprocessing.channels == 1 else f"{lengths}, red, green and blue"
