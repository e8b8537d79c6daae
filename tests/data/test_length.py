"""The length of a training, against what Lightning then trains, and shares against decimal fractions."""

from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp_lightning.data.length import Share, length_of, limited, whole_part


@given(st.integers(0, 10_000), st.integers(1, 4), st.data())
def test_a_share_is_the_decimal_that_was_written(n, digits, data):
    written = Decimal(data.draw(st.integers(0, 10**digits))).scaleb(-digits)
    assert whole_part(float(written), n) == int((written * n).to_integral_value(ROUND_FLOOR))


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 20))
def test_a_share_may_be_any_quotient(n, k, times):
    """1/3 has no decimals that end."""
    k = min(k, n)
    assert whole_part(k / n, n * times) == k * times


@pytest.mark.parametrize(("share", "n"), [(0.29, 100), (0.57, 100), (0.58, 50), (0.07, 300), (1 / 3, 9), (0.999, 10)])
def test_lightning_takes_the_same(share, n):
    assert int(n * Share(share)) == whole_part(share, n) == limited(n, share)
    assert Share(share) == share


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "accumulate", "steps_per_epoch", "steps", "epochs"),
    [
        (4, -1, 1, 11, 44, 4),
        (15, 44, 1, 11, 44, 4),
        (15, 45, 1, 11, 45, 5),
        (-1, 44, 1, 11, 44, 4),
        (None, 44, 1, 11, 44, 4),
        (2, 44, 1, 11, 22, 2),
        (15, 12, 4, 3, 12, 4),
        (15, 10, 4, 3, 10, 4),
        (4, -1, 4, 3, 12, 4),
        (-1, -1, 1, 11, float("inf"), float("inf")),
    ],
)
def test_whichever_end_comes_first(max_epochs, max_steps, accumulate, steps_per_epoch, steps, epochs):
    trainer = SimpleNamespace(max_epochs=max_epochs, max_steps=max_steps, minibatches_per_update=accumulate)
    assert length_of(trainer, 11) == (steps_per_epoch, steps, epochs)


def test_a_share_of_nothing_is_nothing():
    assert whole_part(0.5, 0) == 0
    assert whole_part(float(Fraction(1, 7)), 0) == 0
