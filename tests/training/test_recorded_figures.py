"""Figures that are recorded on a GPU are those that are computed."""

import pytest
import torch

from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.training.health_figures import minibatch_figures
from mlp_lightning.training.recorded_figures import RecordedFigures

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_figures_are_those_that_are_computed(activation, reduction):
    generator = torch.Generator().manual_seed(0)
    network = MLP((30, 70, 50, 4), activation, "he_normal", generator=generator).cuda()
    loss = SoftmaxCrossEntropy("sum")
    recorded = RecordedFigures(network, loss, reduction)
    for n_samples in (64, 64, 9, 64):
        x = torch.rand(n_samples, 30, generator=generator).cuda()
        y = torch.randint(4, (n_samples,), generator=generator).cuda()
        network.flat.detach().mul_(0.9)
        expected = minibatch_figures(network, loss, x, y, reduction)
        gradient = network.flat_grad.clone()
        network.flat_grad.zero_()
        with torch.inference_mode():
            found = recorded(x, y)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=0)
        torch.testing.assert_close(network.flat_grad, gradient, rtol=1e-5, atol=1e-8)
