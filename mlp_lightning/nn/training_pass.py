"""What a pass through the network takes beside its input when it trains."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

Total = Callable[[Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """The sum over all processes where there is but one."""
    return tensor


class TrainingPass(NamedTuple):
    """What tells a pass that trains from one that evaluates.

    ``size`` is the number of samples of the whole minibatch, over which batch norm takes its statistics. ``masks`` are
    dropout's, one for each layer's input, None where nothing is dropped; empty for no dropout at all. ``total`` sums a
    tensor over the processes that share the minibatch, in place.
    """

    size: int
    masks: Sequence[Tensor | None] = ()
    total: Total = alone
