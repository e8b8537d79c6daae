"""Samples as scikit-learn has them, checked, and as tensors."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, validate_data
from torch import Tensor

from mlp_lightning.data.splitting.splits import holdout
from mlp_lightning.errors import UserError

# The share of the training samples that validates where patience needs some and none are given.
VALIDATION_FRACTION = 0.1
# What numpy's arrays may be; others become the first.
KINDS = (np.float64, np.float32)


class Samples(NamedTuple):
    """Samples of a training.

    Args:
        X: array or sparse matrix ``(N, D)``.
        y: targets as numbers ``(N,)`` or ``(N, K)``.
        weights: ``(N,)``; None where all count alike.
    """

    X: Any
    y: NDArray[Any]
    weights: NDArray[np.float64] | None = None

    def at(self, rows: NDArray[np.int64]) -> "Samples":
        """Those at some rows."""
        return Samples(self.X[rows], self.y[rows], None if self.weights is None else self.weights[rows])

    @property
    def column_of_weights(self) -> Tensor:
        """``(N, 1)``, ones where all count alike."""
        weights = np.ones(len(self.y)) if self.weights is None else self.weights
        return torch.from_numpy(weights).unsqueeze(1)


class Part(NamedTuple):
    """Samples as tensors.

    Args:
        x: ``(N, D)``.
        targets: what the loss takes.
        y: as in ``Samples``, for the score.
    """

    x: Tensor
    targets: Tensor
    y: NDArray[Any]


def checked(estimator: BaseEstimator, X: Any, y: Any, sample_weight: ArrayLike | None, *, again: bool) -> Samples:
    """Samples as arrays, without those that count nothing.

    Args:
        estimator: which they train.
        X: of ``fit``.
        y: likewise.
        sample_weight: likewise.
        again: whether earlier samples have told their width.

    Raises:
        ValueError: they do not fit.
    """
    X, y = validate_data(estimator, X, y, accept_sparse="csr", multi_output=True, dtype=KINDS, reset=not again)
    if sample_weight is None:
        return Samples(X, y)
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    samples = Samples(X, y, weights).at(weights.nonzero()[0])
    # The mean divides by their sum.
    is_even = estimator.get_params()["reduction"] == "mean" and bool((samples.weights == weights.max()).all())
    return samples._replace(weights=None) if is_even else samples


def split(samples: Samples, share: float | None, patience: int | None, seed: int) -> tuple[Samples, Samples | None]:
    """What trains, and what validates: a share where it is asked for, or ``patience`` needs one.

    Raises:
        UserError: the share is outside its range, or leaves nothing to train.
    """
    if share is None and patience is not None:
        share = VALIDATION_FRACTION
    if share is None:
        return samples, None
    if not 0 < share < 1:
        raise UserError(f"validation_fraction: got {share}, must be in (0, 1)")
    trains, validates = (rows.numpy() for rows in holdout(len(samples.y), share, seed))
    return samples.at(trains), samples.at(validates)._replace(weights=None)


def tensor_of(X: Any, dtype: torch.dtype) -> Tensor:
    """Dense, contiguous, and without a copy where it is so already."""
    wanted = np.float64 if dtype == torch.float64 else np.float32
    with np.errstate(over="ignore"):
        # What is too large becomes infinite, and ends the training with a message.
        array = np.asarray(X.toarray() if issparse(X) else X, dtype=wanted)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
