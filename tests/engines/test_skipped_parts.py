"""Steps of several minibatches that are left out: batch norm's running statistics stay as they were."""

import pytest
import torch
from fixtures.steps import engine_of

from mlp_lightning.data.batches import Batch
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.optim import SGD

SIZES = (6, 5, 3)


def minibatch(seed: int, *, bad: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, SIZES[0], generator=generator)
    if bad:
        x[3, 2] = float("nan")
    return Batch(x, torch.randint(SIZES[-1], (8,), generator=generator), x[:0], torch.zeros(0).long(), 8)


def train(parts_of_steps, *, nonfinite="skip"):
    """The network after steps of two minibatches, each a list of which are bad; None leaves a step unmade."""
    net = MLP(SIZES, "relu", norm="batch", generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    rule = SGD([net.flat], 0.1)
    step = engine_of(net, SoftmaxCrossEntropy("sum"), rule, reduction="mean", accumulate=2, nonfinite=nonfinite)
    for number, parts in enumerate(parts_of_steps):
        for k, bad in enumerate(parts or []):
            step(minibatch(10 * number + k, bad=bad), 0.1, step=number, updates=k == 1)
    return net


@pytest.mark.parametrize("bad", [[True, False], [False, True], [True, True]], ids=str)
def test_a_step_with_a_bad_minibatch_changes_nothing(bad):
    good = [False, False]
    skipped, never = train([good, bad, good]), train([good, None, good])
    assert torch.equal(skipped.running, never.running)
    assert torch.equal(skipped.flat, never.flat)


def test_a_part_that_is_bad_is_not_followed_before_the_step_ends():
    net = MLP(SIZES, "relu", norm="batch", generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    before = net.running.clone()
    rule = SGD([net.flat], 0.1)
    step = engine_of(net, SoftmaxCrossEntropy("sum"), rule, reduction="mean", accumulate=2, nonfinite="skip")
    step(minibatch(0, bad=True), 0.1, updates=False)
    assert torch.equal(net.running, before)
    step(minibatch(1), 0.1)
    assert torch.equal(net.running, before)


def test_steps_that_are_finite_follow_every_minibatch():
    steps = [[False, False]] * 3
    assert torch.equal(train(steps).running, train(steps, nonfinite="stop").running)
