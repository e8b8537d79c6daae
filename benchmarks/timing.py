"""Timings taken in turn, and their ratios."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from calm import Calm


class Spread(NamedTuple):
    """A median between the least and the greatest value."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def ratio(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Of each round's value to the same round's baseline: what slows a round down slows both."""
    return spread([value / base for value, base in zip(values, baseline, strict=True)])


def seconds_a_call(call: Callable[[], None], at_least: float) -> float:
    """The mean over as many calls as take ``at_least`` seconds."""
    calls, seconds, start = 0, 0.0, time.perf_counter()
    while seconds < at_least:
        call()
        calls += 1
        seconds = time.perf_counter() - start
    return seconds / calls


def in_turn(timers: Mapping[str, Callable[[], float]], rounds: int, calm: Calm | None = None) -> dict[str, list[float]]:
    """Seconds by name, one for each round; every round asks all timers, in their order, each in a calm moment."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name].append(timer() if calm is None else calm.time(timer))
    return seconds
