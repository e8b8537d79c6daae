"""Data parallel training of gradients that are derived by hand: broadcast once, then one all-reduce a step."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry
from torch.optim import Optimizer

from mlp_lightning.engines.shard import Shard
from mlp_lightning.errors import UserError
from mlp_lightning.training.distributed.launcher import ReturningLauncher
from mlp_lightning.training.distributed.meeting import meet

START_METHODS = {"ddp": "popen", "ddp_spawn": "spawn", "ddp_fork": "fork", "ddp_notebook": "fork"}


class FlatDDPStrategy(DDPStrategy):
    """Lightning's DDP without torch's wrapper, whose hooks wait for an autograd that never runs here.

    The processes start from rank 0's weights, and the module itself sums its one flat gradient over them.
    """

    def setup_distributed(self) -> None:
        """Join the other processes; those that torchrun started again, under names of their attempt.

        While it waits for processes that somebody else has to start, it says who is missing and hears signals.
        With torchrun the store in which processes leave their addresses is the agent's, and outlives them: without a
        name of its own an attempt would find the addresses of the dead.
        """
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        uses_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        place = self.cluster_environment
        assert place is not None
        waits = self.num_nodes > 1 or place.creates_processes_externally
        if not dist.is_initialized() and (attempt != "0" if uses_agent else waits):
            self.set_world_ranks()
            assert self._timeout is not None
            n, rank = place.world_size(), place.global_rank()
            if uses_agent:
                store: dist.Store = dist.TCPStore(
                    place.main_address, place.main_port, n, is_master=False, timeout=self._timeout
                )
            else:
                store = meet(place.main_address, place.main_port, rank, n, self._timeout, self._tell_first_of_node)
            dist.init_process_group(
                self._get_process_group_backend(),
                store=dist.PrefixStore(f"attempt_{attempt}", store),
                rank=rank,
                world_size=n,
                timeout=self._timeout,
            )
        super().setup_distributed()

    def _tell_first_of_node(self, line: str) -> None:
        if self.local_rank == 0:
            print(line, file=sys.stderr, flush=True)

    def configure_ddp(self) -> None:
        """Give every process the weights of rank 0."""
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.detach(), src=0)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What a checkpoint keeps of an optimizer, the same for any number of processes, sharded or not."""
        state = super().optimizer_state(optimizer)
        return state if self._shard is None else self._shard.whole_state(state)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up a checkpoint's state of the optimizer, of which a shard takes its share."""
        if self._shard is not None:
            states = [self._shard.own_state(state) for state in checkpoint["optimizer_states"]]
            checkpoint = {**checkpoint, "optimizer_states": states}
        super().load_optimizer_state_dict(checkpoint)

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if self._start_method != "popen":
            self._launcher = ReturningLauncher(self, start_method=self._start_method)

    @property
    def _shard(self) -> Shard | None:
        return getattr(self.lightning_module, "shard", None)


def register_strategies() -> None:
    """Put the strategy in the place of Lightning's, so that ``--trainer.devices 2`` finds it."""
    for name, start_method in START_METHODS.items():
        StrategyRegistry.register(name, FlatDDPStrategy, override=True, start_method=start_method)


def check_strategy(trainer: pl.Trainer) -> None:
    """Refuse strategies whose processes would not share gradients; raises UserError."""
    if not isinstance(trainer.strategy, SingleDeviceStrategy | FlatDDPStrategy):
        name = type(trainer.strategy).__name__
        raise UserError(f"trainer.strategy: got {name}, must be auto or one of {', '.join(START_METHODS)}")


def is_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the group no longer answers."""
    backend_error = isinstance(error, dist.DistBackendError | dist.DistNetworkError) or "gloo/" in str(error)
    return dist.is_initialized() and backend_error
