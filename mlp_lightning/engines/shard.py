"""ZeRO's first stage: each process keeps the optimizer's state of its own share of the parameters, and of no other."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Renamed in torch 2.14, where the old names warn.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Shard:
    """This process's share, the entries from ``first`` to ``stop``, of flat tensors ``(P,)`` (Rajbhandari et al. 2020).

    A step sums the gradient over the W processes, each share of it at its owner alone (reduce-scatter); the owner's
    rule updates that share of the parameter; then everybody is given all shares (all-gather). Together these move as
    many bytes as the one all-reduce without shards, which is just that pair, and each keeps 1/W of the state.

    All shares have ⌊P/W⌋ entries, and the last one the P mod W that are left as well: these travel beside the others,
    which so need no padding, thus no copies. The rule must treat every entry by itself.

    Args:
        numel: P, at least W.
        device: of the tensors.
    """

    def __init__(self, numel: int, device: torch.device) -> None:
        self.numel = numel
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.size = numel // self.world_size
        self.first = self.rank * self.size
        self.stop = numel if self.rank == self.world_size - 1 else self.first + self.size
        self._has_reduce_scatter = has_reduce_scatter(device)

    def of(self, flat: Tensor) -> Tensor:
        """The share of a tensor ``(P,)``, as a view."""
        return flat[self.first : self.stop]

    def sum_(self, flat: Tensor) -> Tensor:
        """This process's share of the sum over all processes, in place; the other shares then hold anything."""
        if not self._has_reduce_scatter:
            dist.all_reduce(flat)
            return self.of(flat)
        equal, rest = self._parts(flat)
        works = [_reduce_scatter(equal[self.first :][: self.size], equal, async_op=True)]
        if rest.numel():
            works.append(dist.all_reduce(rest, async_op=True))
        wait(works)
        return self.of(flat)

    def gather_(self, flat: Tensor) -> Tensor:
        """Every process's share of a tensor ``(P,)`` of which this one has its own, in place."""
        equal, rest = self._parts(flat)
        works = [_all_gather(equal, equal[self.first :][: self.size], async_op=True)]
        if rest.numel():
            works.append(dist.broadcast(rest, src=self.world_size - 1, async_op=True))
        wait(works)
        return flat

    def norm(self, share: Tensor) -> Tensor:
        """The Euclidean norm, 0-dim, of the tensor whose shares the processes hold."""
        square = torch.linalg.vector_norm(share, dtype=torch.float64).square()
        dist.all_reduce(square)
        return square.sqrt().to(share.dtype)

    def cut_(self, rule: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let a new rule on one tensor ``(P,)`` update its share alone."""
        (group,) = rule.param_groups
        (parameter,) = group["params"]
        group["params"] = [nn.Parameter(self.of(parameter.detach()), requires_grad=False)]
        self._weight_numel = group.get("weight_numel")
        if self._weight_numel is not None:
            own = min(max(self._weight_numel - self.first, 0), self.stop - self.first)
            group["weight_numel"] = rule.defaults["weight_numel"] = own
        return rule

    def whole_state(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """What the rule's ``state_dict`` is without shards, gathered from that of each process."""
        state = {
            key: {name: self._gathered(value) if self._is_share(value) else value for name, value in values.items()}
            for key, values in state_dict["state"].items()
        }
        groups = [dict(group) for group in state_dict["param_groups"]]
        if self._weight_numel is not None:
            groups[0]["weight_numel"] = self._weight_numel
        return {"state": state, "param_groups": groups}

    def own_state(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """This process's share of a ``state_dict`` without shards; the options stay those of the whole."""
        state = {
            # Copied, or the share would keep the whole in memory.
            key: {name: self.of(value).clone() if self._is_whole(value) else value for name, value in values.items()}
            for key, values in state_dict["state"].items()
        }
        return {**state_dict, "state": state}

    def _parts(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        return flat[: self.size * self.world_size], flat[self.size * self.world_size :]

    def _gathered(self, share: Tensor) -> Tensor:
        whole = share.new_empty(self.numel)
        self.of(whole).copy_(share)
        return self.gather_(whole)

    def _is_share(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.shape == (self.stop - self.first,)

    def _is_whole(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.shape == (self.numel,)


def wait(works: Iterable[dist.Work | None]) -> None:
    """Until all that was begun with ``async_op`` is done."""
    for work in works:
        assert work is not None
        work.wait()


def has_reduce_scatter(device: torch.device) -> bool:
    """Whether the processes' backend can: gloo cannot in every version of torch."""
    probe = torch.zeros(dist.get_world_size(), device=device)
    try:
        _reduce_scatter(torch.zeros(1, device=device), probe)
    except (RuntimeError, NotImplementedError):
        return False
    return True
