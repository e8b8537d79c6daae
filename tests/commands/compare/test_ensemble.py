import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlp_lightning.commands.compare.ensemble import average
from mlp_lightning.errors import UserError
from mlp_lightning.training.runs.predictions import Predictions


def certain(*probabilities: tuple[float, ...], targets: tuple[int, ...] = (0,)) -> Predictions:
    """A network's probabilities for each sample."""
    return Predictions(torch.tensor(probabilities, dtype=torch.float64).log(), torch.tensor(targets))


def test_one_network_overrules_none_by_probabilities_and_all_by_logits() -> None:
    """Two are fairly sure of class 0, which the third finds impossible: (0.9 + 0.9 + 1e-9)/3 > 1/2 > ∛(0.81e-9)."""
    sure, opposed = certain((0.9, 0.1)), certain((1e-9, 1 - 1e-9))
    ensemble = average([sure, sure, opposed])
    assert ensemble.errors_by_network == [0, 0, 1]
    assert (ensemble.errors, ensemble.errors_of_mean_logits) == (0, 1)
    assert ensemble.accuracy == 1.0


def test_a_network_that_is_torn_gives_way() -> None:
    """By votes class 1 would win, by probabilities it is (0.45 + 0.45 + 0.9)/3 for class 0."""
    torn = certain((0.45, 0.55))
    assert average([torn, torn, certain((0.9, 0.1))]).errors == 0


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_counts_are_numpys(networks: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits = 3 * draw.standard_normal((networks, 40, 4))
    targets = draw.integers(0, 4, 40)
    probabilities = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    log_probabilities = torch.from_numpy(logits).log_softmax(2)
    ensemble = average([Predictions(each, torch.from_numpy(targets)) for each in log_probabilities])
    assert ensemble.errors == (probabilities.mean(0).argmax(1) != targets).sum()
    assert ensemble.errors_of_mean_logits == (logits.mean(0).argmax(1) != targets).sum()
    assert ensemble.errors_by_network == [(each.argmax(1) != targets).sum() for each in logits]
    assert ensemble.test_samples == 40


def test_probabilities_that_round_to_zero_are_no_trouble() -> None:
    impossible = Predictions(torch.tensor([[0.0, -math.inf]], dtype=torch.float64), torch.tensor([0]))
    assert average([impossible, certain((0.2, 0.8))]).errors == 0


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(certain((0.5, 0.5), targets=(1,)), id="other targets"),
        pytest.param(certain((0.5, 0.5), (0.5, 0.5), targets=(0, 0)), id="more samples"),
        pytest.param(certain((0.5, 0.3, 0.2)), id="more classes"),
    ],
)
def test_networks_tested_on_other_samples(other: Predictions) -> None:
    with pytest.raises(UserError, match=r"^an ensemble needs networks that were tested on the same samples"):
        average([certain((0.5, 0.5)), other])


def test_one_network_is_no_ensemble() -> None:
    with pytest.raises(UserError, match=r"^an ensemble is the mean of at least 2 networks, got 1$"):
        average([certain((0.5, 0.5))])


def test_in_words() -> None:
    right, wrong = certain((0.9, 0.1), (0.9, 0.1), targets=(0, 1)), certain((0.6, 0.4), (0.7, 0.3), targets=(0, 1))
    assert str(average([right, wrong])) == "0.5000, 1 errors"
