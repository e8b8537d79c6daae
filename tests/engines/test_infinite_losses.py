"""Losses of logits that are −∞, which no finite logits reach: against torch's, in torch and in C."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from mlp_lightning.engines.native.library import library
from mlp_lightning.engines.native.loss import in_place
from mlp_lightning.nn import SoftmaxCrossEntropy

INF = math.inf
MOST = torch.finfo(torch.float32).max
needs_compiler = pytest.mark.skipif(library() is None, reason="no C compiler")
LOGITS = {
    "own class": ([[0.0, -INF, 1.0], [0.5, 0.2, 0.1]], [1, 0]),
    "another class": ([[0.0, -INF, 1.0], [0.5, 0.2, 0.1]], [0, 0]),
    "all but the own": ([[-INF, 3.0, -INF], [0.5, 0.2, 0.1]], [1, 2]),
    "beside one that is far apart": ([[0.0, -INF, 1.0], [MOST, -MOST, 0.0]], [1, 1]),
}
OPTIONS = [{}, {"label_smoothing": 0.1}, {"class_weights": torch.tensor([0.5, 1.0, 2.0])}]


def torchs(options, logits, targets, reduction):
    settings = {"label_smoothing": options.get("label_smoothing", 0.0), "weight": options.get("class_weights")}
    return cross_entropy(logits, targets, reduction=reduction, **settings)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "smoothed", "weighted"])
@pytest.mark.parametrize(("logits", "y"), LOGITS.values(), ids=LOGITS)
def test_a_class_that_cannot_be_has_torchs_loss(logits, y, options, reduction):
    logits, y = torch.tensor(logits), torch.tensor(y)
    value, cache = SoftmaxCrossEntropy(reduction, **options).forward(logits, y)
    torch.testing.assert_close(value, torchs(options, logits, y, reduction), rtol=1e-6, atol=0)
    assert not SoftmaxCrossEntropy(reduction, **options).backward(cache).isnan().any()


@needs_compiler
@pytest.mark.parametrize(("logits", "y"), LOGITS.values(), ids=LOGITS)
def test_in_c_too(logits, y):
    logits, y = torch.tensor(logits), torch.tensor(y)
    value, _ = in_place(SoftmaxCrossEntropy("sum")).forward(logits, y)
    assert value == pytest.approx(float(cross_entropy(logits, y, reduction="sum")), rel=1e-6)


@needs_compiler
def test_finite_logits_far_apart_have_the_largest_finite_loss_however_many():
    logits, y = torch.tensor([[MOST, -MOST]] * 3), torch.ones(3, dtype=torch.int64)
    assert in_place(SoftmaxCrossEntropy("sum")).forward(logits, y)[0] == MOST
    assert float(SoftmaxCrossEntropy("sum").forward(logits, y)[0]) == MOST


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_targets_that_are_probabilities(share):
    """0 · log 0 is 0, which torch takes for NaN."""
    logits = torch.tensor([[0.0, -INF, 1.0]])
    value, _ = SoftmaxCrossEntropy("sum").forward(logits, torch.tensor([[1 - share, share, 0.0]]))
    expected = INF if share else math.log(1 + math.e)
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy("sum"), in_place(SoftmaxCrossEntropy("sum"))])
def test_a_nan_stays_one(loss):
    for row in ([math.nan, 0.0], [INF, 0.0], [-INF, -INF]):
        assert math.isnan(float(loss.forward(torch.tensor([row]), torch.tensor([0]))[0]))


def test_a_share_without_samples_has_no_loss():
    assert float(SoftmaxCrossEntropy("sum").forward(torch.empty(0, 3), torch.zeros(0).long())[0]) == 0
