"""Which samples test, and which validate: a seeded share, or the notebook's share of every minibatch."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from mlp_lightning.errors import UserError
from mlp_lightning.nn.draws import mixed


def holdout(n: int, validation_size: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Split N samples at random; the same (n, validation_size, seed) always gives the same split.

    Args:
        n: Number of samples, N.
        validation_size: A count ≥ 1, or a fraction of N in (0, 1), rounded to the nearest count and at least 1.
        seed: Seed of the generator that draws the validation samples.

    Returns:
        Training and validation indices, int64, both ascending; together they are 0 … N−1.

    Raises:
        UserError: ``validation_size`` is outside its range or leaves no sample to train.
    """
    if isinstance(validation_size, float):
        legal = 0 < validation_size < 1
        count = max(1, round(validation_size * n)) if legal else 0
    else:
        legal = validation_size >= 1
        count = validation_size
    if not legal or count >= n:
        raise UserError(
            f"data.validation_size: got {validation_size}, must be a count from 1 to {n - 1} or a fraction in (0, 1) "
            f"that leaves some of the {n} samples to train"
        )
    generator = torch.Generator().manual_seed(seed)
    validates = torch.zeros(n, dtype=torch.bool)
    validates[torch.randperm(n, generator=generator)[:count]] = True
    return _indices(~validates), _indices(validates)


def stratified(y: Tensor, test_size: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Split N samples at random, each class in the same proportion; the same arguments give the same split.

    A class gets the share of the test samples that it has of all, rounded by the largest remainders (Hamilton's
    method), but always keeps one sample to train.

    Args:
        y: classes ``(N,)``, int64.
        test_size: A count ≥ 1, or a fraction of N in (0, 1), rounded to the nearest count and at least 1.
        seed: Seed of the generator that draws.

    Returns:
        Training and test indices, int64, both ascending; together they are 0 … N−1.

    Raises:
        UserError: ``test_size`` leaves no sample to train.
    """
    n = len(y)
    count = max(1, round(test_size * n)) if test_size < 1 else int(test_size)
    sizes = torch.bincount(y)
    most = int((sizes - 1).clamp(min=0).sum())
    if count > most:
        raise UserError(
            f"data.test_size: got {test_size}, that is {count} of {n} samples, must be at most {most}, "
            "so that each class keeps a sample to train"
        )
    exact = sizes.double() * count / n
    shares = torch.minimum(exact.floor(), (sizes - 1).clamp(min=0)).long()
    while int(shares.sum()) < count:
        room = torch.where(shares < sizes - 1, exact - shares, -math.inf)
        shares[room.argmax()] += 1
    generator = torch.Generator().manual_seed(mixed(seed, "test split"))
    tests = torch.zeros(n, dtype=torch.bool)
    for k, share in enumerate(shares.tolist()):
        members = (y == k).nonzero().squeeze(1)
        tests[members[torch.randperm(len(members), generator=generator)[:share]]] = True
    return _indices(~tests), _indices(tests)


def train_share(m: int, train_fraction: float = 0.7) -> int:
    """⌈train_fraction·m⌉, exactly: how many of a minibatch's first samples train under ``per_batch``."""
    # From the decimal digits: in floating point 0.28 · 25 = 7.000000000000001, whose ceiling is 8.
    return math.ceil(Fraction(str(train_fraction)) * m)


def per_batch(n: int, batch_size: int, train_fraction: float = 0.7) -> tuple[Tensor, Tensor]:
    """Split every minibatch: of its m samples in file order the first ⌈train_fraction·m⌉ train, the rest validate.

    Args:
        n: Number of samples, N.
        batch_size: Samples in a minibatch, at least 1; the last one may be smaller.
        train_fraction: Share that trains, in (0, 1].

    Returns:
        Training and validation indices, int64, both ascending; together they are 0 … N−1. A minibatch may be too small
        to leave one that validates.

    Raises:
        UserError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"data.batch_size: got {batch_size}, must be at least 1")
    position = torch.arange(n) % batch_size
    trains = position < train_share(batch_size, train_fraction)
    ragged = n % batch_size
    trains[n - ragged :] = position[n - ragged :] < train_share(ragged, train_fraction)
    return _indices(trains), _indices(~trains)


def _indices(mask: Tensor) -> Tensor:
    return mask.nonzero().squeeze(1)
