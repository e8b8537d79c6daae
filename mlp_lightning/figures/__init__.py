"""Figures: arrays in, ``matplotlib.figure.Figure`` out. Nothing here knows of models or loggers, or needs a screen."""

from mlp_lightning.figures.confusion import confusion_figure
from mlp_lightning.figures.curves import curves_figure
from mlp_lightning.figures.deformed import deformed_figure
from mlp_lightning.figures.digits import digits_figure, mistakes_figure, predictions_figure
from mlp_lightning.figures.render import save_png, to_rgb
from mlp_lightning.figures.weights import weights_figure

__all__ = [
    "confusion_figure",
    "curves_figure",
    "deformed_figure",
    "digits_figure",
    "mistakes_figure",
    "predictions_figure",
    "save_png",
    "to_rgb",
    "weights_figure",
]
