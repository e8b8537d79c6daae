"""Waiting until the machine is as fast as it can be.

A virtual machine may have its processors moved by the host, for seconds or minutes: where two of them no longer share a
cache, threads that work together lose a third or more, a step of many small operations far more than one large product.
Other people's work does the same. So a small matrix product is timed before and after each timing: where it took over
``TOLERANCE`` times its fastest, the machine is waited for, or the timing taken again.
"""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")

TOLERANCE = 1.2
PAUSE = 0.25


class Calm:
    """Judges the moments of one benchmark.

    Args:
        patience: seconds to spend on waiting and on timings that are thrown away, in all; then everything counts.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.timings = 0
        self.loud = 0
        self._a, self._b, self._out = torch.rand(64, 784), torch.rand(784, 500), torch.empty(64, 500)
        self._fastest = min(self._probe() for _ in range(10))

    def wait(self) -> None:
        """Until the machine is calm or the patience is spent."""
        start = time.perf_counter()
        while not self._is_calm() and time.perf_counter() - start < self.patience:
            time.sleep(PAUSE)
        self.patience -= time.perf_counter() - start

    def time(self, timed: Callable[[], Result], *, repeatable: bool = True) -> Result:
        """What a call returns that began in a calm moment, and ended in one too if it may be repeated."""
        while True:
            self.wait()
            start = time.perf_counter()
            result = timed()
            is_calm = self._is_calm()
            if is_calm or not repeatable or self.patience <= 0:
                break
            self.patience -= time.perf_counter() - start
        self.timings += 1
        self.loud += not is_calm
        return result

    def _is_calm(self) -> bool:
        seconds = self._probe()
        self._fastest = min(self._fastest, seconds)
        return seconds <= TOLERANCE * self._fastest

    def _probe(self) -> float:
        seconds = []
        for _ in range(12):
            start = time.perf_counter()
            torch.mm(self._a, self._b, out=self._out)
            seconds.append(time.perf_counter() - start)
        # The first ones wake the threads.
        return statistics.median(seconds[3:])
