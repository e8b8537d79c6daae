import math

import pytest

from mlp_lightning.optim import ranges

TOO_LARGE_FOR_A_FLOAT = 10**400


@pytest.mark.parametrize(
    ("require", "good", "bad"),
    [
        (ranges.require_nonnegative, [0, 0.0, 1e-300, 7], [-1e-300, -1]),
        (ranges.require_positive, [1e-300, 1, TOO_LARGE_FOR_A_FLOAT], [0, 0.0, -0.0, -1]),
        (ranges.require_at_least_one, [1, 1.0, 2.5], [0.999, 0, -1]),
        (ranges.require_decay_rate, [0, 0.0, 0.999], [1, 1.0, -0.1]),
        (ranges.require_fraction, [0, 0.5, 1, 1.0], [-0.1, 1.1]),
        (lambda name, value: ranges.require_int(name, value, 2), [2, TOO_LARGE_FOR_A_FLOAT], [1, 2.0, -3]),
        (ranges.require_bool, [True, False], [0, 1, 0.0]),
    ],
    ids=["nonnegative", "positive", "at_least_one", "decay_rate", "fraction", "int", "bool"],
)
def test_range(require, good, bad):
    for value in good:
        require("option", value)
    for value in [*bad, math.nan, math.inf, -math.inf, None, "1", [1]]:
        with pytest.raises(ValueError, match=r"^option must be .*, got "):
            require("option", value)


@pytest.mark.parametrize(
    "require",
    [
        ranges.require_nonnegative,
        ranges.require_positive,
        ranges.require_at_least_one,
        ranges.require_decay_rate,
        ranges.require_fraction,
        lambda name, value: ranges.require_int(name, value, 0),
    ],
    ids=["nonnegative", "positive", "at_least_one", "decay_rate", "fraction", "int"],
)
def test_a_bool_is_no_number(require):
    for value in (True, False):
        with pytest.raises(ValueError, match=f"^option must be .*, got {value}$"):
            require("option", value)
