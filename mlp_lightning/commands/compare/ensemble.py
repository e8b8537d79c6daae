"""An ensemble: the mean of what several networks predict, tested as one."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mlp_lightning.errors import UserError
from mlp_lightning.training.runs.predictions import Predictions, predict_copies, predict_test_set


class Ensemble(NamedTuple):
    """Exact counts on the test set: of each network, of the mean of their probabilities, and of their mean logits."""

    test_samples: int
    errors_by_network: list[int]
    errors: int
    errors_of_mean_logits: int
    # Of the mean over the deformed copies too, where the runs' tests made such.
    errors_over_copies: int | None = None

    @property
    def accuracy(self) -> float:
        """Share of the test set that the mean of the probabilities classifies rightly."""
        return (self.test_samples - self.errors) / self.test_samples

    def __str__(self) -> str:
        copies = "" if self.errors_over_copies is None else f", {self.errors_over_copies} over deformed copies"
        return f"{self.accuracy:.4f}, {self.errors} errors{copies}"


def ensemble(run_folders: Sequence[Path]) -> Ensemble:
    """Average the networks that runs tested; raises UserError as ``average`` and ``predict_test_set``."""
    together = average([predict_test_set(folder) for folder in run_folders])
    over_copies = [predictions for folder in run_folders if (predictions := predict_copies(folder)) is not None]
    if len(over_copies) == len(run_folders):
        return together._replace(errors_over_copies=average(over_copies).errors)
    return together


def average(predictions: Sequence[Predictions]) -> Ensemble:
    """Count the errors of ``p_k = (1/M) Σ_m p_mk`` over M networks, and of the same with logits in place of p.

    The mean of the probabilities is the one to use. Each network then has one vote of weight 1, which it may split;
    log p has no lower bound, so in a mean of logits (which orders the classes as the geometric mean of the
    probabilities does, since normalising shifts all classes of a sample alike) a single network that finds a class
    all but impossible overrules any number of others. Cf. Lakshminarayanan et al. 2017 (arXiv 1612.01474), section 2.4.

    Raises:
        UserError: fewer than two networks, or networks that were tested on other samples.
    """
    if len(predictions) < 2:
        raise UserError(f"an ensemble is the mean of at least 2 networks, got {len(predictions)}")
    log_probabilities, targets = predictions[0]
    for other in predictions[1:]:
        if other.log_probabilities.shape != log_probabilities.shape or not torch.equal(other.targets, targets):
            raise UserError("an ensemble needs networks that were tested on the same samples, these were not")
    stacked = torch.stack([each.log_probabilities for each in predictions])
    mean = Predictions(stacked.logsumexp(0) - math.log(len(predictions)), targets)
    return Ensemble(
        test_samples=len(targets),
        errors_by_network=[each.errors for each in predictions],
        errors=mean.errors,
        errors_of_mean_logits=Predictions(stacked.mean(0), targets).errors,
    )
