import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlp_lightning.commands.check.verdict import Row, Table, closing_line, compare, render, worst

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("ours", "oracle", "allowed", "passed"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.0], 0.0, True, id="equal"),
        pytest.param([1.0, 2.5], [1.0, 2.0], 0.5, True, id="at-the-limit"),
        pytest.param([1.0, 2.5], [1.0, 2.0], 0.4, False, id="above"),
        pytest.param([1.0, NAN], [1.0, 2.0], 1.0, False, id="ours-nan"),
        pytest.param([1.0, 2.0], [1.0, NAN], 1.0, False, id="oracle-nan"),
        pytest.param([NAN], [NAN], 1.0, False, id="both-nan"),
        pytest.param([INF], [INF], 1.0, False, id="both-infinite"),
        pytest.param([1.0], [1.0], INF, False, id="everything-allowed"),
        pytest.param([1.0], [1.0], NAN, False, id="allowance-nan"),
        pytest.param([0.0], [0.0], 0.0, True, id="zero"),
        pytest.param([1e-300], [0.0], 0.0, False, id="not-zero"),
        pytest.param([1.0], [1.0, 1.0], 9.0, False, id="shape"),
        pytest.param([[1.0]], [1.0], 9.0, False, id="dimensions"),
    ],
)
def test_verdict(ours, oracle, allowed, passed):
    row = compare("t", torch.tensor(ours, dtype=torch.float64), torch.tensor(oracle, dtype=torch.float64), allowed)
    assert row.passed == passed
    table = Table("part", "caption", [row])
    assert ("WRONG" in render(table)) == (not passed)
    assert closing_line([table]) == ("all 1 checks passed" if passed else "1 of 1 checks FAILED: t (part)")


def test_relative_error_is_over_the_oracles_largest_entry():
    row = compare("t", torch.tensor([1.0, -4.5]), torch.tensor([1.0, -4.0], dtype=torch.float64), 2.0)
    assert (row.error, row.relative_error, row.tolerance) == (0.5, 0.125, 0.5)


def test_worst_is_relative_to_the_allowance_and_prefers_nan():
    small, large = Row("a", "1", 1.0, 1.0, 10.0), Row("b", "1", 0.5, 1.0, 1.0)
    assert worst([small, large], "w") == large._replace(name="w")
    broken = Row("c", "1", NAN, 1.0, 1.0)
    assert math.isnan(worst([small, broken, large], "w").error)


def test_failures_are_counted_over_all_tables():
    good, bad = Row("g", "1", 0.0, 1.0, 1.0), Row("b", "1", 2.0, 1.0, 1.0)
    tables = [Table("one", "", [good, bad]), Table("two", "", [bad, good, good])]
    assert closing_line(tables) == "2 of 5 checks FAILED: b (one), b (two)"


AMOUNTS = st.sampled_from([0.0, 1e-300, 1e-9, 0.5, 1.0, 2.0, 1e300, INF, NAN])


@given(entries=st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=6))
def test_each_entry_has_its_own_allowance(entries):
    errors, allowed = (torch.tensor(column, dtype=torch.float64) for column in zip(*entries, strict=True))
    row = compare("t", errors, torch.zeros_like(errors), allowed)
    assert row.passed == all(error <= limit < INF for error, limit in entries)
    assert any(
        (row.error == error or (math.isnan(row.error) and math.isnan(error)))
        and (row.allowed == limit or (math.isnan(row.allowed) and math.isnan(limit)))
        for error, limit in entries
    )


@given(entries=st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=6))
def test_one_allowance_is_that_of_every_entry(entries):
    errors, limit = torch.tensor([error for error, _ in entries], dtype=torch.float64), entries[0][1]
    one = compare("t", errors, torch.zeros_like(errors), limit)
    assert one.passed == compare("t", errors, torch.zeros_like(errors), torch.full_like(errors, limit)).passed


def test_the_entry_shown_is_the_one_nearest_to_its_allowance():
    ours, allowed = torch.tensor([[1.0, 5.0], [1.5, 2.0]]), torch.tensor([[2.0, 9.0], [2.0, 9.0]], dtype=torch.float64)
    row = compare("t", ours, torch.ones(2, 2, dtype=torch.float64), allowed)
    assert (row.error, row.allowed, row.shape) == (4.0, 9.0, "2 × 2")


def test_shapes_that_differ_fail_whatever_each_entry_is_allowed():
    row = compare("t", torch.ones(2), torch.ones(3, dtype=torch.float64), torch.full((3,), 9.0))
    assert not row.passed
