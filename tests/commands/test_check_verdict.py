import math

import pytest
import torch

from mlp_lightning.commands.verdict import Row, Table, closing_line, compare, render, worst

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
