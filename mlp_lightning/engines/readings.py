"""Numbers that a device computes, and what is done with them once they can be read without waiting for it."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor


class Readings:
    """A queue of numbers to read, each with what is to be done then, in the order in which they were asked for.

    A processor's numbers are read at once. Another device would have to be waited for, and would then wait itself for
    its next work: its numbers are copied once it comes to them, and wait for ``read``.

    Args:
        waits: whether numbers wait.
    """

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None, Callable[[list[float]], None]]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def ask(self, numbers: Tensor, then: Callable[[list[float]], None]) -> None:
        """Have ``then`` called with numbers ``(n,)`` as they are now."""
        if not self.waits:
            then(numbers.tolist())
        elif numbers.is_cuda:
            copy = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            copy.copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._waiting.append((copy, event, then))
        else:
            self._waiting.append((numbers.clone(), None, then))

    def read(self, count: int | None = None) -> None:
        """Read the first so many, or all, and do what is to be done; a number that is not there yet is waited for."""
        for _ in range(len(self._waiting) if count is None else count):
            numbers, event, then = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            then(numbers.tolist())
