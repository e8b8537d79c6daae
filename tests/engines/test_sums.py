"""Sums that float32 cannot hold, though each of their terms is a float32: of gradients, weights and losses."""

import pytest
import torch

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.finiteness import Finiteness, NotFinite
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.nn import MLP
from mlp_lightning.nn.training_pass import TrainingPass
from mlp_lightning.training.evaluation import Evaluation

LARGE = 3e38


@pytest.fixture
def network():
    return MLP((3, 4, 2), "tanh", generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def allows(network, gradient, *, skips):
    x = torch.zeros(5, 3)
    batch = Batch(x, torch.zeros(5).long(), x[:0], torch.zeros(0).long(), 5)
    finiteness = Finiteness(NativePasses(network), nonfinite="skip" if skips else "stop")
    return finiteness.allows(6, torch.tensor(1.0), gradient, batch, TrainingPass(5), 0.1)


@pytest.mark.parametrize("skips", [False, True])
def test_a_gradient_whose_sum_overflows_is_finite(network, skips):
    network.flat_grad.fill_(LARGE)
    assert not network.flat_grad[network.weight_numel :].sum().isfinite()
    assert allows(network, network.flat_grad, skips=skips)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_one_that_is_not_finite_is_found_among_large_ones(network, value):
    network.flat_grad.fill_(LARGE)
    network.flat_grad[-1] = value
    assert not allows(network, network.flat_grad, skips=True)
    with pytest.raises(NotFinite, match=r"^step 7 is not finite: the gradient of layer 1 overflows"):
        allows(network, network.flat_grad, skips=False)


def test_weights_whose_sum_overflows_are_finite(network):
    finiteness = Finiteness(NativePasses(network))
    network.flat.detach().fill_(LARGE)
    finiteness.begin(0)
    finiteness.look(3, 0.1)
    network.layers[1].bias.detach()[1] = float("inf")
    with pytest.raises(
        NotFinite, match=r"^step 4 is not finite: .* layer 1 are not finite after it, but were after step 3"
    ):
        finiteness.look(4, 0.1)


@pytest.mark.parametrize("losses", [[2.0**24, 1.0, 1.0], [1.0, 2.0**24, 1.0]])
def test_losses_are_summed_in_more_bits_than_they_have(losses):
    """2²⁴ + 1 is no float32."""
    evaluation = Evaluation(2)
    for loss in losses:
        evaluation.update(torch.zeros(1, 2), torch.zeros(1).long(), torch.tensor(loss), 0.5)
    assert evaluation.finish()[0] == (2**24 + 2) / 1.5
    evaluation.update(torch.zeros(1, 2), torch.zeros(1).long(), torch.tensor(2.0**24), 1)
    evaluation.update(torch.zeros(1, 2), torch.zeros(1).long(), torch.tensor(1.0), 0)
    assert evaluation.finish()[0] == 2**24 + 1
