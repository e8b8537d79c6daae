"""What Health measures: of a minibatch right before its step, and of the step."""

import torch
from torch import Tensor

from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.nn.diagnostics import (
    dead_share,
    mean_abs,
    norm,
    rms,
    sample_gradient_norms,
    saturated_share,
)
from mlp_lightning.nn.losses import Loss
from mlp_lightning.nn.training_pass import TrainingPass


def minibatch_figures(network: MLP, loss: Loss, x: Tensor, y: Tensor, reduction: str) -> dict[str, Tensor]:
    """What a forward and a backward pass on a minibatch ``(B, D)``, B ≥ 1, tell; overwrites ``network.flat_grad``.

    Args:
        network: In the state before the step.
        loss: With reduction ``"sum"``.
        x: Inputs.
        y: Targets ``(B,)``, or their probabilities ``(B, K)``.
        reduction: Of the step; with ``"mean"`` the gradient of a single sample is that of its own mean (over the K
            outputs for the squared error).
    """
    logits, cache = network(x, TrainingPass(len(x)))
    _, loss_cache = loss.forward(logits, y)
    # The step's gradient is the mean, or the sum, of gradients g_i of single samples: the deltas here are theirs.
    scale = len(y) / loss.normalizer(logits, y) if reduction == "mean" else 1.0
    deltas: list[Tensor] = []
    norm_deltas: list[Tensor] = []
    network.backward(loss.backward(loss_cache, scale), cache, deltas=deltas, norm_deltas=norm_deltas)

    figures = {}
    for k, dz in enumerate(reversed(deltas)):
        figures[f"delta_mean_abs/layer {k}"] = mean_abs(dz)
        figures[f"delta_rms/layer {k}"] = rms(dz)
    for k, (_, z, a) in enumerate(cache[:-1]):
        figures[f"dead/layer {k}"] = dead_share(network.activation, z, a)
        if ACTIVATIONS[network.activation].bounds:
            figures[f"saturated/layer {k}"] = saturated_share(network.activation, a)
    for k, parameters in enumerate(network.norms):
        figures[f"norm_weight/layer {k}"] = rms(parameters.gamma)
        figures[f"norm_bias/layer {k}"] = rms(parameters.beta)
    norms = sample_gradient_norms(cache, deltas, norm_deltas)
    figures["sample_gradient_norm/mean"] = norms.mean()
    figures["sample_gradient_norm/rms"] = rms(norms)
    figures["sample_gradient_norm/max"] = norms.max()
    figures["mean_gradient_norm"] = norm(network.flat_grad) / len(y)
    return figures


def step_figures(network: MLP, weights: list[Tensor]) -> dict[str, Tensor]:
    """What a step did, from each layer's weight before it and the state after it."""
    figures = {}
    for k, (layer, before) in enumerate(zip(network.layers, weights, strict=True)):
        weight_norm, update_norm = norm(before), norm(layer.weight - before)
        figures[f"weight_norm/layer {k}"] = weight_norm
        figures[f"gradient_norm/layer {k}"] = norm(layer.dweight)
        figures[f"update_norm/layer {k}"] = update_norm
        figures[f"update_ratio/layer {k}"] = update_norm / weight_norm
    for k, parameters in enumerate(network.norms):
        figures[f"norm_gradient/layer {k}"] = norm(torch.cat([parameters.dgamma, parameters.dbeta]))
    return figures
