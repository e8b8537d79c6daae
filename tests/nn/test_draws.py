"""Draws follow from seed, purpose, step and row alone, and ``keep`` keeps what it says."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_lightning.nn.draws import Draws, kept_share, mixed

KINDS = {
    "uniform": lambda draws: draws.uniform(5),
    "normal": lambda draws: draws.normal(5),
    "two axes": lambda draws: draws.normal(3, 2),
    "keep": lambda draws: draws.keep(0.4, 5),
}


def drawn(kind, seed=0, purpose="test", step=0, rows=40, first=0, size=None):
    draws = Draws(seed, purpose)
    draws.start(step, rows, first, size)
    return KINDS[kind](draws)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_again(kind):
    draws = Draws(0, "test")
    draws.start(3, 7)
    KINDS[kind](draws)
    draws.start(0, 40)
    assert torch.equal(KINDS[kind](draws), drawn(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [{"seed": 1}, {"purpose": "other"}, {"step": 1}], ids=str)
def test_seed_purpose_and_step_tell_draws_apart(kind, other):
    assert not torch.equal(drawn(kind, **other), drawn(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounds", [(0, 20, 40), (0, 1, 13, 40), (0, 0, 40, 40)], ids=str)
def test_processes_share_the_rows_of_one(kind, bounds):
    shares = [drawn(kind, rows=stop - start, first=start, size=40) for start, stop in itertools.pairwise(bounds)]
    assert torch.equal(torch.cat(shares), drawn(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_one_step_go_on(kind):
    draws = Draws(0, "test")
    draws.start(0, 40)
    assert not torch.equal(KINDS[kind](draws), KINDS[kind](draws))


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_generator_is_left_alone(kind):
    before = torch.get_rng_state()
    drawn(kind)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_keep_has_its_probability_in_every_place(p):
    draws = Draws(0, "test")
    draws.start(0, 40_000)
    kept = draws.keep(p, 8)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    # Four draws come from each word: each of the places must have the right mean, six standard errors allowed.
    error = 6 * math.sqrt(max(p * (1 - p), 1e-12) / len(kept))
    assert (kept.mean(0) - (1 - p)).abs().max() <= error + 2**-17


def test_keep_draws_independently():
    draws = Draws(0, "test")
    draws.start(0, 20_000)
    kept = draws.keep(0.5, 8)
    correlations = torch.corrcoef(kept.t()) - torch.eye(8)
    assert correlations.abs().max() < 6 / math.sqrt(20_000)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 9), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_keep_takes_any_shape_and_dtype(width, rows, dtype):
    draws = Draws(0, "test")
    draws.start(0, rows)
    kept = draws.keep(0.5, width, dtype)
    assert kept.shape == (rows, width)
    assert kept.dtype == dtype
    draws.start(0, rows)
    assert torch.equal(draws.keep(0.5, width), kept.float())


@given(st.floats(0, 1, exclude_max=True))
def test_the_share_is_near_and_never_zero(p):
    share = kept_share(p)
    assert 0 < share <= 1
    assert abs(share - (1 - p)) <= 2**-16
    assert (share * 2**16).is_integer()


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan, math.inf])
def test_probabilities_out_of_range(p):
    with pytest.raises(ValueError, match=rf"^p must be in \[0, 1\), got {p}$"):
        kept_share(p)


PURPOSES = ("dropout", "vat", "deform", "mixup partners", "mixup share")


@pytest.mark.parametrize("seed", [0, 1, 2, 42, 2**32 - 1, 2**63])
def test_no_two_streams_of_a_step_are_one(seed):
    """Nor one with what draws the initial weights and the split, which take the seed as it is."""
    steps = range(5000)
    for step in steps:
        streams = [mixed(seed, purpose, step) for purpose in PURPOSES]
        streams += [mixed(seed, step), mixed(seed, "test split"), seed % 2**32]
        assert len(set(streams)) == len(streams)
