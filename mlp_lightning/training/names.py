"""Names of what a network is made of, as types for the options of the command line."""

from typing import Literal

ActivationName = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "identity"]
InitName = Literal[
    "zeros",
    "glorot_uniform",
    "glorot_normal",
    "he_normal",
    "he_uniform",
    "he_notebook",
    "lecun_normal",
    "orthogonal",
]
