"""The choices of the command line, as types: a row of a table is a choice as soon as it is there."""

from typing import TYPE_CHECKING, Literal

from mlp_lightning.nn import ACTIVATIONS, INITIALIZERS, LOSSES
from mlp_lightning.optim import OPTIMIZERS
from mlp_lightning.training.options import AVERAGINGS, SCHEDULES

if TYPE_CHECKING:
    ActivationName = str
    InitName = str
    LossName = str
    OptimizerName = str
    ScheduleName = str
    AveragingName = str
else:
    ActivationName = Literal[*ACTIVATIONS]
    InitName = Literal[*INITIALIZERS]
    LossName = Literal[*LOSSES]
    OptimizerName = Literal[*OPTIMIZERS]
    ScheduleName = Literal[*SCHEDULES]
    AveragingName = Literal[*AVERAGINGS]
