"""Samples as a user has them, files or objects, as rows of a model's input."""

from mlp_lightning.predicting.inputs.part import Part
from mlp_lightning.predicting.inputs.reader import Inputs, Reader

__all__ = ["Inputs", "Part", "Reader"]
