"""The exported nn.Sequential against our network, and against its own source text."""

import itertools

import pytest
import torch

from mlp_lightning.commands.export.network import torch_network
from mlp_lightning.nn import ACTIVATIONS, MLP


def network_of(activation: str, norm: str, dtype: torch.dtype, sizes: tuple[int, ...] = (6, 5, 4, 3)) -> MLP:
    """Every number of it, those of its norms included, is drawn."""
    network = MLP(sizes, activation, norm=norm, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    network.flat.copy_(torch.randn(network.flat.shape, generator=generator))
    if network.running is not None:
        network.running.copy_(torch.rand(network.running.shape, generator=generator) + 0.5)
    return network


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("activation", "norm"), list(itertools.product(ACTIVATIONS, ["none", "batch", "layer"])))
def test_equals_our_network(activation: str, norm: str, dtype: torch.dtype) -> None:
    network = network_of(activation, norm, dtype)
    # Up to 30, where softplus and gelu are at their limits too.
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(2), dtype=dtype) * 3
    expected = network(x)[0]
    rounding = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(torch_network(network)(x), expected, rtol=rounding, atol=rounding * expected.abs().max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_activations_everywhere(activation: str, dtype: torch.dtype) -> None:
    """Where they overflow, cancel or change their formula."""
    z = torch.cat([torch.linspace(-100, 100, 4001, dtype=dtype), torch.tensor([0.0, -0.0, 1e4, -1e4], dtype=dtype)])
    expected = ACTIVATIONS[activation].forward(z)
    eps = torch.finfo(dtype).eps
    # torch's gelu cancels in the left tail, where ours does not: the error is absolute, of the size of z.
    # Where eᶻ is below the normal numbers, z times it is rounded or 0.
    atol = 8 * eps if activation == "gelu" else 100 * torch.finfo(dtype).tiny
    torch.testing.assert_close(ACTIVATIONS[activation].module()(z), expected, rtol=8 * eps, atol=atol)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_without_hidden_layers(norm: str) -> None:
    network = network_of("relu", norm, torch.float64, (6, 3))
    layers = torch_network(network)
    assert [type(layer) for layer in layers] == [torch.nn.Linear]
    x = torch.ones(2, 6, dtype=torch.float64)
    torch.testing.assert_close(layers(x), network(x)[0])


def test_is_a_copy_that_draws_nothing_and_evaluates() -> None:
    network = network_of("relu", "batch", torch.float32)
    before, random = network.flat.clone(), torch.get_rng_state()
    layers = torch_network(network)
    assert torch.equal(torch.get_rng_state(), random)
    for parameter in layers.parameters():
        assert not parameter.requires_grad
        # Alone in its memory: nothing else goes into the file with it.
        assert parameter.untyped_storage().nbytes() == parameter.nbytes
        parameter.fill_(7)
    assert torch.equal(network.flat, before)
    assert not any(layer.training for layer in layers)
