"""The mathematics: layers, activations, losses and initialisers as forward/backward pairs. Imports torch only.

Shape legend, used everywhere: ``B`` samples of a minibatch, ``D`` width of a layer's input, ``H`` width of its output,
``K`` classes. A gradient is called like its tensor with a ``d`` in front and has its shape.
"""

from mlp_lightning.nn.activations import ACTIVATIONS, Activation
from mlp_lightning.nn.initializers import INITIALIZERS
from mlp_lightning.nn.losses import LOSSES, MeanSquaredError, SoftmaxCrossEntropy
from mlp_lightning.nn.mlp import MLP

__all__ = ["ACTIVATIONS", "INITIALIZERS", "LOSSES", "MLP", "Activation", "MeanSquaredError", "SoftmaxCrossEntropy"]
