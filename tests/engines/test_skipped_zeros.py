"""What the passes in C make of numbers that are not finite where they skip zeros, against torch's."""

import math

import pytest
import torch
from torch.nn import functional as F

from mlp_lightning.engines.native.chain import has_chain
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.nn import MLP

pytestmark = pytest.mark.skipif(not has_chain(is_mixed=False), reason="no compiler or BLAS")
SIZES = (40, 130, 70, 4)
ROWS = 80


def network():
    """Few of its hidden units answer, so that zeros are skipped in every layer."""
    net = MLP(SIZES, "relu", "he_normal", generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    for layer in net.layers[:-1]:
        layer.bias.detach().fill_(-2.0)
    return net


def samples():
    """Of 10 quads of pixels 3 are not 0."""
    x = torch.rand(ROWS, SIZES[0], generator=torch.Generator().manual_seed(1))
    x[:, 12:] = 0
    return x


def torchs(net, x):
    for k, layer in enumerate(net.layers):
        x = F.linear(x, layer.weight, layer.bias)
        x = x.relu() if k < len(net.layers) - 1 else x
    return x.detach()


def skipping(net):
    workspace = NativePasses(net, min_rows_sparse=1)
    logits = workspace.forward(samples()).clone()
    (chain,) = (chain for *_, chain in workspace._chains.values())
    assert chain._of_zeros[0].is_sparse
    return logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["weight", "bias", "both"])
def test_relu_lets_through_what_is_not_finite(value, place, threads):
    net = network()
    if place != "bias":
        net.layers[0].weight.detach()[5, 3] = value
    if place != "weight":
        net.layers[0].bias.detach()[7] = value
    expected = torchs(net, samples())
    assert not expected.isfinite().any()
    assert torch.equal(skipping(net).isnan(), expected.isnan())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_pixel_that_is_not_finite_is_no_zero(value, threads):
    net, x = network(), samples()
    x[33, 30] = value
    workspace = NativePasses(net, min_rows_sparse=1)
    logits = workspace.forward(x)
    assert torch.equal(logits.isfinite(), torchs(net, x).isfinite())
    assert not logits[33].isfinite().all()
    assert logits[:33].isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_behind_a_zero_is_not_seen(value):
    """Torch's products see it; training looks at the weights themselves (docs/numbers.md)."""
    net = network()
    net.layers[0].weight.detach()[5, 30] = value
    assert torchs(net, samples()).isnan().all()
    assert skipping(net).isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_delta_that_is_not_finite_shows_in_the_sum_of_the_biases(value, threads):
    workspace = NativePasses(network(), min_rows_sparse=1)
    workspace.forward(samples())
    dlogits = torch.ones(ROWS, SIZES[-1])
    dlogits[70, 1] = value
    assert not math.isfinite(workspace.write_gradients(dlogits))
