"""Averages of weights against torch's AveragedModel and against means written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mlp_lightning.optim.averaging import average_, ema, swa


def weights(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(steps, 7, generator=generator, dtype=torch.float64))


def averaged(averaging, iterates):
    average = torch.full((7,), 5.0, dtype=torch.float64)
    for t, theta in enumerate(iterates):
        average_(average, theta, averaging(t))
    return average


def torch_average(model: AveragedModel, source: nn.Module, iterates) -> torch.Tensor:
    for theta in iterates:
        source.weight.data.copy_(theta.view_as(source.weight))
        model.update_parameters(source)
    return model.module.weight.detach().view(-1)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_ema_beyond_its_first_steps_is_torchs(decay):
    # From the step on at which (1 + t) / (10 + t) passes the decay, both averages follow the same rule.
    first, iterates = 90, weights(120)
    source = nn.Linear(7, 1, bias=False, dtype=torch.float64)
    source.weight.data.copy_(averaged(ema(decay), iterates[:first]).view(1, 7))
    model = AveragedModel(source, multi_avg_fn=get_ema_multi_avg_fn(decay))
    model.update_parameters(source)
    expected = torch_average(model, source, iterates[first:])
    torch.testing.assert_close(averaged(ema(decay), iterates), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first_step", [0, 1, 13])
def test_swa_is_torchs_from_its_first_step_on(first_step):
    iterates = weights(20)
    source = nn.Linear(7, 1, bias=False, dtype=torch.float64)
    expected = torch_average(AveragedModel(source), source, iterates[first_step:])
    torch.testing.assert_close(averaged(swa(first_step), iterates), expected, rtol=1e-12, atol=1e-12)


def test_before_its_first_step_swa_is_the_newest_weights():
    iterates = weights(4)
    assert torch.equal(averaged(swa(9), iterates), iterates[-1])


def test_the_first_steps_fade_faster():
    assert [round(ema(0.999)(t), 6) for t in (0, 1, 90)] == [0.9, round(9 / 11, 6), 0.09]
    assert ema(0.999)(10**6) == pytest.approx(0.001)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10**7))
def test_shares_are_shares(decay, t):
    assert 0 < ema(decay)(t) <= 1
    assert 0 < swa(t // 2)(t) <= 1


@given(st.integers(1, 30))
def test_weights_that_stand_still_are_their_average(steps):
    still = [torch.ones(7, dtype=torch.float64)] * steps
    torch.testing.assert_close(averaged(swa(0), still), still[0])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan"), True, "0.9"])
def test_a_decay_outside_its_range(decay):
    with pytest.raises(ValueError, match=r"^decay must be a number in \[0, 1\), got"):
        ema(decay)


@pytest.mark.parametrize("first_step", [-1, 0.5, True])
def test_a_first_step_outside_its_range(first_step):
    with pytest.raises(ValueError, match=r"^first_step must be an integer >= 0"):
        swa(first_step)
