import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score
from torch.nn.functional import cross_entropy

from mlp_lightning.nn import SoftmaxCrossEntropy
from mlp_lightning.training.evaluation import Evaluation, accuracy, class_accuracy

N, K = 103, 5
LABELS = list(range(K))


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, K, generator=generator) * 3, torch.randint(K, (N,), generator=generator)


def evaluate(logits, targets, batch_size, loss=None):
    loss = loss or SoftmaxCrossEntropy("sum")
    evaluation = Evaluation(logits.shape[1])
    for x, y in zip(logits.split(batch_size), targets.split(batch_size), strict=True):
        evaluation.update(x, y, loss.forward(x, y)[0], loss.normalizer(x, y))
    return evaluation.finish()


@pytest.mark.parametrize("batch_size", [1, 10, 50, N], ids=lambda size: f"batches of {size}")
def test_equals_scikit_learn_for_any_cut_into_batches(predictions, batch_size):
    logits, targets = predictions
    loss, counts = evaluate(logits, targets, batch_size)
    predicted = logits.argmax(1)
    assert loss == pytest.approx(log_loss(targets, torch.softmax(logits.double(), 1), labels=LABELS), rel=1e-6)
    assert np.array_equal(counts, confusion_matrix(targets, predicted, labels=LABELS))
    assert accuracy(counts) == accuracy_score(targets, predicted)
    assert class_accuracy(counts) == pytest.approx(recall_score(targets, predicted, average=None, labels=LABELS))


def test_rows_are_true_classes():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    _, counts = evaluate(logits, torch.tensor([0, 0, 0]), 3)
    assert counts.tolist() == [[1, 2], [0, 0]]


def test_the_mean_of_weighted_losses_divides_by_the_weights_of_all_samples(predictions):
    logits, targets = predictions
    weights = torch.tensor([0.1, 1.0, 2.0, 5.0, 0.5])
    loss, _ = evaluate(logits, targets, 10, SoftmaxCrossEntropy("sum", class_weights=weights))
    assert loss == pytest.approx(cross_entropy(logits.double(), targets, weight=weights.double()).item(), rel=1e-6)


def test_finishing_starts_anew(predictions):
    logits, targets = predictions
    evaluation = Evaluation(K)
    for _ in range(2):
        evaluation.update(logits, targets, torch.tensor(2.0 * N), N)
        loss, counts = evaluation.finish()
        assert loss == 2.0
        assert counts.sum() == N


def test_sums_begun_under_inference_mode_go_on_outside_of_it(predictions):
    logits, targets = predictions
    evaluation = Evaluation(K)
    for inference in (True, False):
        with torch.inference_mode(inference):
            evaluation.update(logits, targets, torch.tensor(1.0), N)
            evaluation.finish()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_comes_through(predictions, value):
    logits, targets = predictions
    evaluation = Evaluation(K)
    evaluation.update(logits, targets, torch.tensor(1.0), 1)
    evaluation.update(logits, targets, torch.tensor(value), 1)
    assert not math.isfinite(evaluation.finish()[0])


def test_a_class_without_samples_has_no_accuracy():
    shares = class_accuracy(torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 2]]))
    assert shares[::2] == [0.75, 1.0]
    assert math.isnan(shares[1])


def test_sums_are_no_part_of_a_checkpoint():
    assert not Evaluation(K).state_dict()
