"""The commands ``check``, ``explain`` and ``export`` as functions of a model, or of the path of its checkpoint."""

import os
from pathlib import Path
from typing import Any

from mlp_lightning.notebook.model import Model, load
from mlp_lightning.notebook.reports import Report, Walk

Source = Model | str | os.PathLike[str]


def check(model: Source, x: Any = None, y: Any = None) -> Report:
    """``Model.check``."""
    return _model(model).check(x, y)


def explain(model: Source, x: Any = None, y: Any = None, *, sample: int = 0) -> Walk:
    """``Model.explain``."""
    return _model(model).explain(x, y, sample=sample)


def export(model: Source, path: str | os.PathLike[str], format: str = "onnx", *, input: str | None = None) -> Path:
    """``Model.export``."""
    return _model(model).export(path, format, input=input)


def _model(model: Source) -> Model:
    return model if isinstance(model, Model) else load(model)
