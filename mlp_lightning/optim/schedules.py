"""Learning-rate schedules: pure functions of the step, so that resuming a run needs the step's number and nothing else.

A schedule gives the multiplier of the base learning rate for step t = 0, 1, 2, …; from its last step on it stays at its
last value.
"""

import math
from collections.abc import Callable

from mlp_lightning.optim.ranges import (
    require_at_least_one,
    require_fraction,
    require_int,
    require_positive,
)

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """1 at every step."""
    return lambda t: 1.0


def step_decay(step_size: int, gamma: float) -> Schedule:
    """γ^⌊t / step_size⌋: a stair with treads of ``step_size`` steps.

    Args:
        step_size: at least 1.
        gamma: γ in (0, 1].

    Raises:
        ValueError: an argument outside its range.
    """
    require_int("step_size", step_size, 1)
    require_positive("gamma", gamma)
    require_fraction("gamma", gamma)
    return lambda t: gamma ** (t // step_size)


def cosine(total_steps: int, final_factor: float = 0.0) -> Schedule:
    """f + (1 − f) ½ (1 + cos(π t / T)): from 1 at t = 0 down to f at t = T (Loshchilov & Hutter 2017, eq. 5).

    Args:
        total_steps: T ≥ 1.
        final_factor: f in [0, 1].

    Raises:
        ValueError: an argument outside its range.
    """
    require_int("total_steps", total_steps, 1)
    require_fraction("final_factor", final_factor)
    return lambda t: _half_cosine(1.0, final_factor, min(t / total_steps, 1.0))


def one_cycle(
    total_steps: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> Schedule:
    """Up to 1 and down again, each along half a cosine (Smith & Topin 2018, in fastai's two phases).

        1 / div_factor                       at t = 0
        1                                    at t = pct_start · T − 1
        1 / (div_factor · final_div_factor)  at t = T − 1, the last step

    Args:
        total_steps: T ≥ 1.
        pct_start: the part of the steps, in [0, 1], that the rise takes; the peak may fall between two steps.
        div_factor: at least 1.
        final_div_factor: at least 1.

    Raises:
        ValueError: an argument outside its range.
    """
    require_int("total_steps", total_steps, 1)
    require_fraction("pct_start", pct_start)
    require_at_least_one("div_factor", div_factor)
    require_at_least_one("final_div_factor", final_div_factor)
    first, final = 1 / div_factor, 1 / (div_factor * final_div_factor)
    peak, last = pct_start * total_steps - 1, total_steps - 1

    def multiplier(t: int) -> float:
        t = min(t, last)
        if t < peak:
            return _half_cosine(first, 1.0, t / peak)
        return _half_cosine(1.0, final, (t - peak) / (last - peak)) if peak < last else 1.0

    return multiplier


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """(t + 1) / (steps + 1) while t < steps, then ``schedule`` from its own step 0 (Goyal et al. 2017, section 2.2).

    The rise leads to 1, so the schedule should start there, which ``one_cycle`` does not.

    Args:
        schedule: what follows the rise.
        steps: at least 0, which leaves the schedule as it is.

    Raises:
        ValueError: ``steps`` outside its range.
    """
    require_int("steps", steps, 0)
    return lambda t: (t + 1) / (steps + 1) if t < steps else schedule(t - steps)


def _half_cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` at progress 0 to ``end`` at progress 1, level at both."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
