"""What the processes of a training tell each other: sums, and each process's value."""

from typing import TypeVar, cast

import torch.distributed as dist
from torch import Tensor

from mlp_lightning.engines.shard import Shard, wait
from mlp_lightning.nn.mlp import MLP

T = TypeVar("T")


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place; a single process has it already."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_from_ranks(value: T) -> list[T]:
    """Every process's value, by rank; a single process has its own alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)


class AllReduce:
    """The gradient, summed over the processes when the backward pass is done.

    Args:
        network: whose flat gradient it is.
    """

    def __init__(self, network: MLP) -> None:
        self.network = network

    def start_layer(self, k: int) -> None:
        """Layer k's dW is written; its sum may start."""

    def finish(self) -> Tensor:
        """The whole minibatch's gradient, or this process's shard of it."""
        return sum_over_ranks(self.network.flat_grad)


class ReduceScatter(AllReduce):
    """The sum of which each process gets its own shard alone.

    Args:
        network: whose flat gradient it is.
        shard: this process's.
    """

    def __init__(self, network: MLP, shard: Shard) -> None:
        super().__init__(network)
        self.shard = shard

    def finish(self) -> Tensor:
        """This process's shard of the whole minibatch's gradient."""
        return self.shard.sum_(self.network.flat_grad)


class Overlapped(AllReduce):
    """Each layer's dW is summed while the deltas of the layers before it are still computed.

    Args:
        network: whose flat gradient it is.
    """

    def __init__(self, network: MLP) -> None:
        super().__init__(network)
        self._works: list[dist.Work | None] = []

    def start_layer(self, k: int) -> None:
        """Start the sum of layer k's dW."""
        self._works.append(dist.all_reduce(self.network.layers[k].dweight, async_op=True))

    def finish(self) -> Tensor:
        """The whole minibatch's gradient, once the sums of all layers are done."""
        flat_grad = self.network.flat_grad
        # Everything but the weights, whose sums have started.
        self._works.append(dist.all_reduce(flat_grad[self.network.weight_numel :], async_op=True))
        wait(self._works)
        self._works.clear()
        return flat_grad
