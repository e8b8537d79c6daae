"""Numbers below 1.2e-38, which processors compute with slowly, are 0 while a training runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mlp_lightning.engines.native.library import library, shares_threads


@contextmanager
def no_denormals() -> Iterator[None]:
    """Let torch's operations take them for 0, as the C functions do, in all of its threads.

    Momentum of gradients that have become 0 is full of them from the second epoch on, and a step takes a third longer.
    Without a C compiler it holds for this thread and those that torch starts from here on. Afterwards it is as it was
    in this thread.
    """
    before = _flushes()
    _flush(True)
    try:
        yield
    finally:
        _flush(before)


def _flushes() -> bool:
    # torch tells no one; a product does.
    return not torch.full((1,), 1e-39).mul_(2).any()


def _flush(flushes: bool) -> None:
    torch.set_flush_denormal(flushes)
    functions, threads = library(), torch.get_num_threads()
    if functions is not None and shares_threads() and threads > 1:
        functions.flush_denormals(int(flushes), threads)
