"""Numbers below 1.2e-38, which processors compute with slowly, are 0 while a command runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def no_denormals() -> Iterator[None]:
    """Let torch's operations take them for 0, as the C functions do.

    Momentum of gradients that have become 0 is full of them from the second epoch on, and a step takes a third longer.
    It holds for this thread and for those that torch starts from here on, and it was off before.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
