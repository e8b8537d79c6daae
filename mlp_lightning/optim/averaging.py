"""Averages of the weights over the steps of a training: pure functions of the step, as the schedules are.

Each gives the share w of the newest weights θ that step t = 0, 1, 2, … lets into the average θ̄:

    θ̄ ← θ̄ + w(t) (θ − θ̄)

Late in a training the weights wander around the minimum that minibatches hide from them; their mean lies nearer to it.
The average never enters the training itself.
"""

from collections.abc import Callable

from torch import Tensor

from mlp_lightning.nn.flat_storage import FlatStorage
from mlp_lightning.optim.ranges import require_decay_rate, require_int

Averaging = Callable[[int], float]


def ema(decay: float) -> Averaging:
    """w(t) = 1 − min(β, (1 + t) / (10 + t)): an exponential moving average, over about 1 / (1 − β) steps.

    The second term lets the first steps, whose weights are soon outdated, fade faster; TensorFlow's
    ``ExponentialMovingAverage`` has it so. The average of iterates is Polyak & Juditsky's (1992).

    Args:
        decay: β in [0, 1).

    Raises:
        ValueError: an argument outside its range.
    """
    require_decay_rate("decay", decay)
    return lambda t: 1 - min(decay, (1 + t) / (10 + t))


def swa(first_step: int) -> Averaging:
    """w(t) = 1 / (t − t₀ + 1) from step t₀ on: the plain mean of the weights since then, θ itself before.

    This is stochastic weight averaging (Izmailov et al. 2018, Algorithm 1) with a cycle length of one step.

    Args:
        first_step: t₀ ≥ 0.

    Raises:
        ValueError: an argument outside its range.
    """
    require_int("first_step", first_step, 0)
    return lambda t: 1 / max(t - first_step + 1, 1)


def average_(average: Tensor, newest: Tensor, weight: float) -> Tensor:
    """θ̄ ← θ̄ + w (θ − θ̄), in place, for w in [0, 1]; both of one shape, dtype and device."""
    return average.lerp_(newest, weight)


def average_network_(average: FlatStorage, newest: FlatStorage, weight: float) -> None:
    """``average_`` of a network's parameter and, with batch norm, of its running statistics.

    The statistics are those of each step's weights: averaged likewise, they follow the average of the weights.
    """
    average_(average.flat, newest.flat, weight)
    if average.running is not None and newest.running is not None:
        average_(average.running, newest.running, weight)
