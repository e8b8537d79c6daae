"""The loss in C against torch's in float64."""

import copy
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from mlp_lightning.engines.native.library import library
from mlp_lightning.engines.native.loss import NativeCrossEntropy, in_place
from mlp_lightning.nn import MeanSquaredError, SoftmaxCrossEntropy

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler")


def minibatch(rows, classes, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(rows, classes, generator=generator)
    return logits, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize(("rows", "classes"), [(0, 3), (1, 1), (1, 2), (64, 10), (500, 10), (3, 5000)])
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
def test_follows_torch_in_float64(rows, classes, scale):
    logits, targets = minibatch(rows, classes, scale)
    loss = in_place(SoftmaxCrossEntropy("sum"))
    assert isinstance(loss, NativeCrossEntropy)
    value, cache = loss.forward(logits, targets)
    oracle = logits.double().requires_grad_()
    expected = cross_entropy(oracle, targets, reduction="sum")
    (0.25 * expected).backward()
    assert value == pytest.approx(float(expected.detach()), rel=1e-6, abs=1e-6)
    torch.testing.assert_close(loss.backward(cache, 0.25).double(), oracle.grad, rtol=1e-5, atol=1e-7)
    assert loss.normalizer(logits, targets) == rows


def test_its_memory_serves_smaller_and_larger_minibatches():
    loss = in_place(SoftmaxCrossEntropy("sum"))
    for rows, classes in ((4, 3), (2, 3), (9, 3), (9, 4), (3, 4)):
        logits, targets = minibatch(rows, classes)
        value, cache = loss.forward(logits, targets)
        expected, expected_cache = SoftmaxCrossEntropy("sum").forward(logits, targets)
        assert value == pytest.approx(float(expected))
        torch.testing.assert_close(loss.backward(cache), SoftmaxCrossEntropy("sum").backward(expected_cache))


def test_what_comes_in_may_be_a_tensor():
    loss, (logits, targets) = in_place(SoftmaxCrossEntropy("sum")), minibatch(4, 3)
    by_number = loss.backward(loss.forward(logits, targets)[1], 0.25).clone()
    by_tensor = loss.backward(loss.forward(logits, targets)[1], torch.tensor(0.25))
    assert torch.equal(by_number, by_tensor)


def test_the_bits_do_not_depend_on_threads():
    logits, targets = minibatch(500, 10)
    found = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        value, cache = in_place(SoftmaxCrossEntropy("sum")).forward(logits, targets)
        torch.set_num_threads(before)
        found.append((value, cache[0].clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_logits_that_are_far_apart_have_the_largest_loss():
    most = torch.finfo(torch.float32).max
    value, _ = in_place(SoftmaxCrossEntropy("sum")).forward(torch.tensor([[most, -most]]), torch.tensor([1]))
    assert value == most


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_show(wrong):
    value, _ = in_place(SoftmaxCrossEntropy("sum")).forward(torch.tensor([[wrong, 0.0]]), torch.tensor([1]))
    assert not math.isfinite(value) or value == torch.finfo(torch.float32).max


@pytest.mark.parametrize("target", [-1, 3])
def test_a_class_that_there_is_not(target):
    logits, targets = minibatch(4, 3)
    targets[2] = target
    with pytest.raises((RuntimeError, IndexError)):
        in_place(SoftmaxCrossEntropy("sum")).forward(logits, targets)


def test_probabilities_and_other_dtypes_are_torchs():
    loss, (logits, targets) = in_place(SoftmaxCrossEntropy("sum")), minibatch(4, 3)
    probabilities = torch.full((4, 3), 1 / 3)
    for given in ((logits.double(), targets), (logits, probabilities), (logits.t().contiguous().t(), targets)):
        value, cache = loss.forward(*given)
        expected, expected_cache = SoftmaxCrossEntropy("sum").forward(*given)
        assert torch.equal(value, expected)
        assert torch.equal(loss.backward(cache), SoftmaxCrossEntropy("sum").backward(expected_cache))
    with pytest.raises(ValueError, match="int64"):
        loss.forward(logits, targets.int())


@pytest.mark.parametrize(
    "loss",
    [
        SoftmaxCrossEntropy("mean"),
        SoftmaxCrossEntropy("sum", label_smoothing=0.1),
        SoftmaxCrossEntropy("sum", class_weights=torch.ones(3)),
        MeanSquaredError("sum"),
    ],
)
def test_others_stay_what_they_are(loss):
    assert in_place(loss) is loss


def test_a_copy_computes_the_same():
    loss, (logits, targets) = in_place(SoftmaxCrossEntropy("sum")), minibatch(4, 3)
    twin = copy.deepcopy(loss)
    assert twin.forward(logits, targets)[0] == loss.forward(logits, targets)[0]
