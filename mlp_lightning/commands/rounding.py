"""How far rounding may carry a right computation: what ``check`` tolerates.

A fixed tolerance would not do: a saturated unit or a sum that cancels loses digits that no formula can keep. So
rounding errors are followed through the network (running error analysis, Higham 2002, section 3.3), in units of eps:
every operation adds one eps of the terms it sums, and independent errors add as the root of their squares.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Trace(NamedTuple):
    """What the oracle computed on the way, layer by layer; the last layer's activation is the identity.

    Attributes:
        weights: W_k ``(H, D)``.
        biases: b_k ``(H,)``.
        inputs: A_{k−1} ``(B, D)``.
        outputs: Z_k ``(B, H)``.
        slopes: f′(Z_k) ``(B, H)`` of every layer but the last.
        deltas: dZ_k ``(B, H)``.
        loss: the loss.
        steepest: the largest |dlogits| that one sample can cause.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    slopes: Sequence[Tensor]
    deltas: Sequence[Tensor]
    loss: Tensor
    steepest: float


def rounding_errors(trace: Trace) -> dict[str, float]:
    """The probable error, in units of eps, of the worst entry of every tensor that backpropagation computes."""
    weights = [weight.abs() for weight in trace.weights]
    inputs = [a.abs() for a in trace.inputs]
    deltas = [delta.abs() for delta in trace.deltas]
    depth = len(weights)

    input_errors = [torch.zeros_like(inputs[0])]
    for k in range(depth):
        z_error = _through(input_errors[k], weights[k].t()) + inputs[k] @ weights[k].t() + trace.biases[k].abs()
        if k < depth - 1:
            # f may be, like z Φ(z), z times the difference of numbers near 1.
            rounding = torch.maximum(inputs[k + 1], trace.outputs[k].abs())
            input_errors.append(z_error * trace.slopes[k].abs() + rounding)
    worst = float(z_error.max())
    # A probability near 1 or a loss near 0 is the difference of numbers near 1, or near the logits.
    delta_error = torch.full_like(deltas[-1], trace.steepest * (1 + worst))
    errors = {
        "logits": worst,
        "loss": float(trace.loss.abs()) + trace.steepest * len(inputs[0]) * worst,
        "dlogits": float(delta_error.max()),
    }
    for k in reversed(range(depth)):
        weight_error = _through(delta_error.t(), inputs[k]) + _through(deltas[k].t(), input_errors[k])
        weight_error += deltas[k].t() @ inputs[k]
        bias_error = delta_error.square().sum(0).sqrt() + deltas[k].sum(0)
        errors[f"layers.{k}.weight"] = float(weight_error.max())
        errors[f"layers.{k}.bias"] = float(bias_error.max())
        da_error = _through(delta_error, weights[k]) + deltas[k] @ weights[k]
        if k:
            # f′ is of the order of 1 and may be, like 1 − a², the difference of such numbers.
            da = trace.deltas[k] @ trace.weights[k]
            delta_error = da_error * trace.slopes[k - 1].abs() + da.abs()
    errors["dx"] = float(da_error.max())
    return errors


def _through(left: Tensor, right: Tensor) -> Tensor:
    """The error of a matrix product one factor of which has errors."""
    return (left.square() @ right.square()).sqrt()
