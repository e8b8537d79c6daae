import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_lightning.data.splitting.splits import holdout, per_batch, train_share
from mlp_lightning.errors import UserError


def assert_partition(n: int, train: torch.Tensor, validation: torch.Tensor) -> None:
    assert train.dtype == validation.dtype == torch.int64
    assert train.ndim == validation.ndim == 1
    for indices in (train.tolist(), validation.tolist()):
        assert indices == sorted(indices)
    assert sorted(train.tolist() + validation.tolist()) == list(range(n))


@settings(deadline=None)
@given(data=st.data(), n=st.integers(2, 300), seed=st.integers(0, 2**32 - 1))
def test_holdout_parts_are_ascending_and_disjoint_and_cover_all(data: st.DataObject, n: int, seed: int) -> None:
    count = data.draw(st.integers(1, n - 1))
    train, validation = holdout(n, count, seed)
    assert_partition(n, train, validation)
    assert len(validation) == count
    for part, again in zip((train, validation), holdout(n, count, seed), strict=True):
        assert torch.equal(part, again)


def test_holdout_follows_the_seed_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    splits = [holdout(1000, 100, seed)[1].tolist() for seed in range(5)]
    assert len({tuple(split) for split in splits}) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_holdout_draws_from_the_whole_file() -> None:
    _, validation = holdout(10_000, 1000, seed=3)
    # 250 of each quarter are expected, with a standard deviation of 13.
    assert all(170 < count < 330 for count in torch.histc(validation.float(), 4, 0, 10_000).tolist())


@pytest.mark.parametrize(
    ("n", "validation_size", "count"),
    [
        pytest.param(60_000, 5000, 5000, id="count"),
        pytest.param(60_000, 0.1, 6000, id="fraction"),
        pytest.param(10, 0.26, 3, id="rounded up"),
        pytest.param(10, 0.24, 2, id="rounded down"),
        pytest.param(10, 0.001, 1, id="at least one"),
        pytest.param(2, 0.5, 1, id="smallest"),
        pytest.param(5, 4, 4, id="one left to train"),
    ],
)
def test_holdout_count(n: int, validation_size: int | float, count: int) -> None:
    train, validation = holdout(n, validation_size, seed=0)
    assert (len(train), len(validation)) == (n - count, count)


@pytest.mark.parametrize(
    ("n", "validation_size"),
    [
        (10, 0),
        (10, -1),
        (10, 10),
        (10, 11),
        (10, 0.0),
        (10, 1.0),
        (10, -0.5),
        (10, 1.5),
        (10, 5000.0),
        (10, 0.99),
        (10, math.nan),
        (10, math.inf),
        (1, 0.5),
        (1, 1),
        (0, 1),
    ],
)
def test_holdout_refuses_an_empty_part(n: int, validation_size: int | float) -> None:
    with pytest.raises(UserError, match=r"^data\.validation_size: got ") as caught:
        holdout(n, validation_size, seed=0)
    assert str(validation_size) in str(caught.value)


@pytest.mark.parametrize("m", range(1, 201))
def test_train_share_is_the_exact_ceiling(m: int) -> None:
    assert train_share(m) == math.ceil(Fraction(7, 10) * m)


def test_train_share_of_nothing() -> None:
    assert train_share(0) == 0


@pytest.mark.parametrize(
    ("fraction", "m", "count"), [(0.1, 30, 3), (0.28, 25, 7), (0.55, 100, 55), (1.0, 9, 9), (1e-3, 1, 1)]
)
def test_train_share_of_other_fractions(fraction: float, m: int, count: int) -> None:
    """0.28 · 25 and 0.55 · 100 are a little above 7 and 55 in floating point."""
    assert train_share(m, fraction) == count


@settings(deadline=None)
@given(n=st.integers(1, 400), batch_size=st.integers(1, 130))
def test_per_batch_splits_each_minibatch(n: int, batch_size: int) -> None:
    train, validation = per_batch(n, batch_size)
    assert_partition(n, train, validation)
    expected = []
    for batch in torch.arange(n).split(batch_size):
        expected += batch[: math.ceil(Fraction(7, 10) * len(batch))].tolist()
    assert train.tolist() == expected


def test_per_batch_of_the_notebook() -> None:
    train, validation = per_batch(60_000, 64)
    # 937 batches of 64 (45 + 19) and one of 32 (23 + 9).
    assert (len(train), len(validation)) == (937 * 45 + 23, 937 * 19 + 9)
    assert validation[:20].tolist() == [*range(45, 64), 109]


def test_per_batch_of_another_fraction() -> None:
    train, validation = per_batch(7, 4, train_fraction=0.5)
    assert train.tolist() == [0, 1, 4, 5]
    assert validation.tolist() == [2, 3, 6]


@pytest.mark.parametrize("batch_size", [0, -3])
def test_per_batch_refuses_an_empty_minibatch(batch_size: int) -> None:
    with pytest.raises(UserError, match=rf"^data\.batch_size: got {batch_size}, must be at least 1"):
        per_batch(10, batch_size)
