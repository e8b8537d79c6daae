"""Multilayer perceptrons whose gradients are derived by hand, trained under Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlp_lightning.invocation import version_of_package

if TYPE_CHECKING:
    from mlp_lightning.notebook.functions import check, explain, export
    from mlp_lightning.notebook.model import Model, load
    from mlp_lightning.notebook.train import train
    from mlp_lightning.predicting.prediction import Prediction, predict

__all__ = ["Model", "Prediction", "__version__", "check", "explain", "export", "load", "predict", "train"]

_MODULES = {
    "Model": "notebook.model",
    "check": "notebook.functions",
    "explain": "notebook.functions",
    "export": "notebook.functions",
    "load": "notebook.model",
    "Prediction": "predicting.prediction",
    "predict": "predicting.prediction",
    "train": "notebook.train",
}

__version__: str


def __getattr__(name: str) -> Any:
    # On demand: the command line's help shall not wait for torch.
    if name == "__version__":
        return version_of_package()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
