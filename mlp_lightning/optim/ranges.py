"""Range checks of named options.

Each raises ValueError with the option's name, what is allowed and the value received. A bool is no number, and NaN and
infinity are in no range.
"""

import math
from typing import TypeGuard


def require_nonnegative(name: str, value: object) -> None:
    """Accept a finite number ≥ 0."""
    _require(name, value, _is_finite(value) and value >= 0, "a finite number >= 0")


def require_positive(name: str, value: object) -> None:
    """Accept a finite number > 0."""
    _require(name, value, _is_finite(value) and value > 0, "a finite number > 0")


def require_at_least_one(name: str, value: object) -> None:
    """Accept a finite number ≥ 1."""
    _require(name, value, _is_finite(value) and value >= 1, "a finite number >= 1")


def require_decay_rate(name: str, value: object) -> None:
    """Accept the decay rate of a running average: a number in [0, 1)."""
    _require(name, value, _is_finite(value) and 0 <= value < 1, "a number in [0, 1)")


def require_betas(value: object) -> None:
    """Accept (β1, β2), each the decay rate of a running average."""
    beta1, beta2 = value if isinstance(value, tuple | list) and len(value) == 2 else (None, None)
    _require("betas", value, beta1 is not None and beta2 is not None, "a pair of numbers in [0, 1)")
    require_decay_rate("beta1", beta1)
    require_decay_rate("beta2", beta2)


def require_fraction(name: str, value: object) -> None:
    """Accept a number in [0, 1]."""
    _require(name, value, _is_finite(value) and 0 <= value <= 1, "a number in [0, 1]")


def require_int(name: str, value: object, low: int, high: float = math.inf) -> None:
    """Accept an int from ``low`` to ``high``."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    allowed = f"an integer >= {low}" if high == math.inf else f"an integer from {low} to {high}"
    _require(name, value, is_int and low <= value <= high, allowed)  # type: ignore[operator]


def require_bool(name: str, value: object) -> None:
    """Accept True or False."""
    _require(name, value, isinstance(value, bool), "True or False")


def _is_finite(value: object) -> TypeGuard[float]:
    # A comparison takes integers beyond the largest float, which math.isfinite does not.
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _require(name: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
