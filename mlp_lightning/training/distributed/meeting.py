"""Where the processes of a training meet, with a word about those that are missing and an ear for signals."""

import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from mlp_lightning.errors import UserError

# Short, since a signal is heard only between two tries.
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_OF_A_TRY = 1
SECONDS_OF_SILENCE = 5


def meet(
    address: str, port: int, rank: int, n_processes: int, timeout: timedelta, tell: Callable[[str], None]
) -> dist.Store:
    """A store that all processes share, once all of them are there.

    torch's own start waits for them in C++, where no signal is heard and nothing is said.

    Args:
        address: of the machine of the process of rank 0.
        port: there.
        rank: of this process.
        n_processes: of all machines.
        timeout: how long to wait.
        tell: is told, once, that others are missing.

    Raises:
        UserError: they have not come, or the port cannot be used.
    """
    begin, told, store, present = time.monotonic(), False, None, 0
    while True:
        if store is None:
            store = _enter(address, port, rank, n_processes)
        if store is not None:
            present = sum(store.check([f"rank {k}"]) for k in range(n_processes))
            if present == n_processes:
                store.set_timeout(timeout)
                return store
        waited = time.monotonic() - begin
        missing = f"{n_processes - present} of {n_processes} processes" if rank == 0 else "the first process"
        if waited > SECONDS_OF_SILENCE and not told:
            told = True
            tell(
                f"waiting for {missing} at {address}:{port}; start the same command on every node, with "
                "the environment variables NODE_RANK (0, 1, …), MASTER_ADDR (the first's) and MASTER_PORT (one for all)"
            )
        if waited > timeout.total_seconds():
            raise UserError(f"trainer.num_nodes: waited {timeout} for {missing} at {address}:{port}")
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _enter(address: str, port: int, rank: int, n_processes: int) -> dist.Store | None:
    """The store with this process counted in; None where there is none yet."""
    try:
        store = dist.TCPStore(
            address,
            port,
            n_processes,
            is_master=rank == 0,
            timeout=timedelta(seconds=SECONDS_OF_A_TRY),
            wait_for_workers=False,
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if rank == 0:
            raise UserError(f"environment variable MASTER_PORT: port {port} cannot be used ({error})") from error
        return None
    store.set(f"rank {rank}", "")
    return store
