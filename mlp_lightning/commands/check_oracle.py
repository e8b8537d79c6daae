"""The oracle of gradients: the same network and loss of torch.nn.functional, differentiated by autograd.

Nothing here shares a formula with the package. This file and ``check_oracle_rules.py``, with the tests and benchmarks,
are where torch.autograd and the algorithms of torch.optim may appear.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.commands.rounding import Trace

ACTIVATIONS: dict[str, Any] = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    # Above its threshold torch replaces softplus by z: at the default of 20 that is an error of 1e-10.
    "softplus": lambda z: F.softplus(z, threshold=80),
}


class Gradients(NamedTuple):
    """The tensors of one minibatch, and what they were computed from.

    ``values`` are in the order in which backpropagation computes them: logits, loss, dlogits, the gradients under their
    parameters' names from the last layer to the first, and dx.
    """

    values: dict[str, Tensor]
    trace: Trace


def gradients(
    parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, options: Mapping[str, Any], dtype: torch.dtype
) -> Gradients:
    """Forward with torch.nn.functional, backward with autograd.

    Args:
        parameters: ``layers.k.weight`` ``(H, D)`` and ``layers.k.bias`` ``(H,)`` for k = 0, 1, ….
        x: ``(B, D)``.
        y: ``(B,)``, int64.
        options: the options of ``MLPModule``.
        dtype: of the whole computation.
    """
    depth = len(parameters) // 2
    # Autograd, the oracle: the only place in the package where it records anything.
    with torch.enable_grad():
        weights, biases = (
            [_tracked(parameters[f"layers.{k}.{kind}"], dtype) for k in range(depth)] for kind in ("weight", "bias")
        )
        inputs, outputs = [_tracked(x, dtype)], []
        for k in range(depth):
            outputs.append(F.linear(inputs[k], weights[k], biases[k]))
            if k < depth - 1:
                inputs.append(ACTIVATIONS[options["activation"]](outputs[k]))
        logits = outputs[-1]
        loss = _loss(logits, y, options)
        slopes = [
            torch.autograd.grad(a.sum(), z, retain_graph=True)[0] for a, z in zip(inputs[1:], outputs[:-1], strict=True)
        ]
        derivatives = torch.autograd.grad(loss, [*weights, *biases, *outputs, inputs[0]])
    dweights, dbiases, deltas = (derivatives[i * depth : (i + 1) * depth] for i in range(3))
    values = {"logits": logits.detach(), "loss": loss.detach(), "dlogits": deltas[-1]}
    for k in reversed(range(depth)):
        values[f"layers.{k}.weight"], values[f"layers.{k}.bias"] = dweights[k], dbiases[k]
    values["dx"] = derivatives[-1]
    trace = Trace(
        weights=_detached(weights),
        biases=_detached(biases),
        inputs=_detached(inputs),
        outputs=_detached(outputs),
        slopes=slopes,
        deltas=deltas,
        loss=values["loss"],
        steepest=_steepest(values["logits"], y, options),
    )
    return Gradients(values, trace)


def _tracked(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype, copy=True).requires_grad_()


def _detached(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach() for tensor in tensors]


def _steepest(logits: Tensor, y: Tensor, options: Mapping[str, Any]) -> float:
    """The largest |dlogits| that one sample can cause."""
    mean = options["reduction"] == "mean"
    if options["loss"] == "mse":
        return 2 * (1 + float(logits.abs().max())) / (logits.numel() if mean else 1)
    weights = torch.tensor(options["class_weights"] or [1.0] * logits.shape[1])
    return float(weights.max() / (weights[y].sum() if mean else 1))


def _loss(logits: Tensor, y: Tensor, options: Mapping[str, Any]) -> Tensor:
    if options["loss"] == "mse":
        return F.mse_loss(logits, F.one_hot(y, logits.shape[1]).to(logits), reduction=options["reduction"])
    weights = options["class_weights"]
    return F.cross_entropy(
        logits,
        y,
        weight=None if weights is None else torch.tensor(weights).to(logits),
        reduction=options["reduction"],
        label_smoothing=options["label_smoothing"],
    )
