"""The network as torch's own layers: the ``nn.Sequential`` that computes what our MLP computes when it evaluates."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.nn.norm import EPS, MOMENTUM


def torch_network(network: MLP) -> nn.Sequential:
    """Linear, norm (if any) and activation of each hidden layer, then the last Linear, with copies of our weights.

    It is in evaluation mode, in the network's dtype, on its device, and tracks no gradients.
    """
    state = network.state_dict()
    norms: list[nn.Module] = []
    # Without storage: what the weights are first filled with would be drawn from torch's global generator.
    with torch.device("meta"):
        linears = [nn.Linear(layer.weight.shape[1], layer.weight.shape[0]) for layer in network.layers]
        for width in network.sizes[1:-1]:
            if network.norm == "batch":
                norms.append(nn.BatchNorm1d(width, eps=EPS, momentum=MOMENTUM))
            elif network.norm == "layer":
                norms.append(nn.LayerNorm(width, eps=EPS))
    layers: list[nn.Module] = []
    for k, linear in enumerate(linears):
        layers.append(_with_values(linear, state, f"layers.{k}."))
        if k < len(norms):
            layers.append(_with_values(norms[k], state, f"norms.{k}."))
        if k < len(linears) - 1:
            layers.append(ACTIVATIONS[network.activation].module())
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _with_values(layer: nn.Module, state: Mapping[str, Tensor], prefix: str) -> nn.Module:
    # Copies: a view would take the whole flat parameter along into every file.
    values = {name.removeprefix(prefix): value.clone() for name, value in state.items() if name.startswith(prefix)}
    layer.load_state_dict(values, assign=True)
    return layer
