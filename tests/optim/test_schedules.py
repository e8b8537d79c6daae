import itertools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from mlp_lightning.optim import constant, cosine, one_cycle, step_decay, warmup

TOLERANCE = 1e-12
BASE_LR = 0.3


def torch_factors(make_scheduler, steps):
    """The learning rates of torch's scheduler over ``steps`` steps, as multiples of the base."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE_LR)
    scheduler = make_scheduler(optimizer)
    factors = [optimizer.param_groups[0]["lr"] / BASE_LR]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        factors.append(optimizer.param_groups[0]["lr"] / BASE_LR)
    return factors


def assert_factors(schedule, expected):
    assert [schedule(t) for t in range(len(expected))] == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


def test_constant():
    assert [constant()(t) for t in (0, 1, 10**9)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.9), (7, 0.5), (100, 0.1), (3, 1)])
def test_step_decay_follows_torch(step_size, gamma):
    expected = torch_factors(lambda o: lr_scheduler.StepLR(o, step_size, gamma), 50)
    assert_factors(step_decay(step_size, gamma), expected)


@pytest.mark.parametrize("final_factor", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("total_steps", [1, 2, 37])
def test_cosine_follows_torch(total_steps, final_factor):
    expected = torch_factors(
        lambda o: lr_scheduler.CosineAnnealingLR(o, total_steps, eta_min=final_factor * BASE_LR), total_steps + 1
    )
    assert_factors(cosine(total_steps, final_factor), expected)


def test_cosine_halfway():
    assert cosine(10, 0.2)(5) == pytest.approx(0.6, rel=TOLERANCE)


@pytest.mark.parametrize(("div_factor", "final_div_factor"), [(25.0, 1e4), (10.0, 100.0), (1.0, 1.0)])
@pytest.mark.parametrize(
    ("total_steps", "pct_start"),
    [
        pytest.param(50, 0.3, id="default"),
        pytest.param(37, 0.3, id="peak-between-steps"),
        pytest.param(50, 0.0, id="no-rise"),
        pytest.param(5, 0.1, id="rise-shorter-than-a-step"),
        pytest.param(20, 1.0, id="no-fall"),
        pytest.param(1, 0.3, id="one-step"),
    ],
)
def test_one_cycle_follows_torch(total_steps, pct_start, div_factor, final_div_factor):
    expected = torch_factors(
        lambda o: lr_scheduler.OneCycleLR(
            o,
            BASE_LR,
            total_steps,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            cycle_momentum=False,
        ),
        total_steps,
    )
    assert_factors(one_cycle(total_steps, pct_start, div_factor, final_div_factor), expected)


@pytest.mark.parametrize(
    ("total_steps", "pct_start", "step", "expected"),
    [
        pytest.param(10, 0.3, 0, 1 / 25, id="start"),
        pytest.param(10, 0.3, 1, (1 / 25 + 1) / 2, id="middle-of-rise"),
        pytest.param(10, 0.3, 2, 1.0, id="peak"),
        pytest.param(10, 0.3, 9, 1 / 25e4, id="end"),
        pytest.param(10, 0.1, 0, 1.0, id="peak-at-step-0"),
        pytest.param(1, 1.0, 0, 1.0, id="one-step-no-fall"),
    ],
)
def test_one_cycle_closed_forms(total_steps, pct_start, step, expected):
    assert one_cycle(total_steps, pct_start)(step) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_warmup_follows_torch(steps):
    def make(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (steps + 1), end_factor=1.0, total_iters=steps)
        fall = lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.1 * BASE_LR)
        return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[steps])

    assert_factors(warmup(cosine(20, 0.1), steps), torch_factors(make, steps + 21))


def test_warmup_of_zero_steps_changes_nothing():
    assert [warmup(cosine(5), 0)(t) for t in range(8)] == [cosine(5)(t) for t in range(8)]


def test_warmup_rises_in_equal_steps_to_one():
    factors = [warmup(constant(), 4)(t) for t in range(6)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rel=TOLERANCE)


@pytest.mark.parametrize(
    ("schedule", "last_step", "final"),
    [
        pytest.param(cosine(10), 10, 0.0, id="cosine"),
        pytest.param(cosine(10, 0.3), 10, 0.3, id="cosine-final-factor"),
        pytest.param(one_cycle(10), 9, 1 / 25e4, id="one_cycle"),
        pytest.param(one_cycle(10, pct_start=1.0), 9, 1.0, id="one_cycle-no-fall"),
        pytest.param(warmup(cosine(10, 0.3), 5), 15, 0.3, id="warmup-cosine"),
    ],
)
def test_stays_at_the_last_value(schedule, last_step, final):
    for t in (last_step, last_step + 1, 10**9):
        assert schedule(t) == pytest.approx(final, rel=TOLERANCE, abs=1e-16)


def test_step_decay_vanishes_without_an_error():
    assert step_decay(1, 0.5)(10**9) == 0.0


@pytest.mark.parametrize(
    "schedule", [cosine(40), cosine(40, 0.5), step_decay(7, 0.9)], ids=["to-0", "to-half", "steps"]
)
def test_never_rises(schedule):
    assert all(later <= earlier for earlier, later in itertools.pairwise(schedule(t) for t in range(60)))


def test_order_of_the_questions_does_not_matter():
    schedule = warmup(one_cycle(30), 4)
    forward = [schedule(t) for t in range(40)]
    assert [schedule(t) for t in reversed(range(40))] == forward[::-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: step_decay(0, 0.5), "step_size must be", id="step_size-0"),
        pytest.param(lambda: step_decay(2.0, 0.5), "step_size must be", id="float-step_size"),
        pytest.param(lambda: step_decay(True, 0.5), "step_size must be", id="bool-step_size"),
        pytest.param(lambda: step_decay(2, 0.0), "gamma must be", id="gamma-0"),
        pytest.param(lambda: step_decay(2, 1.1), "gamma must be", id="growing-gamma"),
        pytest.param(lambda: step_decay(2, math.nan), "gamma must be", id="nan-gamma"),
        pytest.param(lambda: cosine(0), "total_steps must be", id="cosine-0"),
        pytest.param(lambda: cosine(-1), "total_steps must be", id="cosine-negative"),
        pytest.param(lambda: cosine(10, -0.1), "final_factor must be", id="negative-final_factor"),
        pytest.param(lambda: cosine(10, 1.1), "final_factor must be", id="final_factor-above-1"),
        pytest.param(lambda: cosine(10, True), "final_factor must be", id="bool-final_factor"),
        pytest.param(lambda: one_cycle(0), "total_steps must be", id="one_cycle-0"),
        pytest.param(lambda: one_cycle(10, pct_start=-0.1), "pct_start must be", id="negative-pct_start"),
        pytest.param(lambda: one_cycle(10, pct_start=1.1), "pct_start must be", id="pct_start-above-1"),
        pytest.param(lambda: one_cycle(10, div_factor=0.0), "div_factor must be", id="div_factor-0"),
        pytest.param(lambda: one_cycle(10, div_factor=math.inf), "div_factor must be", id="inf-div_factor"),
        pytest.param(lambda: one_cycle(10, final_div_factor=0.5), "final_div_factor must be", id="final_div_factor"),
        pytest.param(lambda: warmup(constant(), -1), "steps must be", id="negative-warmup"),
        pytest.param(lambda: warmup(constant(), 1.5), "steps must be", id="float-warmup"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
