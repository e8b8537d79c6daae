"""How far rounding may carry a right computation: what ``check`` tolerates.

A fixed tolerance would not do: a saturated unit or a sum that cancels loses digits that no formula can keep. So
rounding errors are followed through the network (running error analysis, Higham 2002, section 3.3), in units of eps:
every operation adds one eps of the terms it sums, and independent errors add as the root of their squares.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class NormTrace(NamedTuple):
    """One norm: the axis of its sums, 0 over samples or 1 over units; γ, β ``(H,)``, Z, N and dN ``(B, H)``."""

    axis: int
    gamma: Tensor
    beta: Tensor
    z: Tensor
    n: Tensor
    dn: Tensor


class Trace(NamedTuple):
    """What the oracle computed on the way, layer by layer; the last layer's activation is the identity.

    Attributes:
        weights: W_k ``(H, D)``.
        biases: b_k ``(H,)``.
        inputs: A_{k−1} ``(B, D)``, as the layer reads it.
        outputs: Z_k ``(B, H)``.
        masks: dropout's M ``(B, D)`` of every layer's input, None without.
        norms: of every layer but the last; empty without.
        slopes: f′ ``(B, H)`` of every layer but the last.
        deltas: dZ_k ``(B, H)``.
        loss: the loss.
        steepest: the largest |dlogits| that one sample can cause.
    """

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    masks: Sequence[Tensor | None]
    norms: Sequence[NormTrace]
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

    norms = [_Norm(norm) for norm in trace.norms]

    errors: dict[str, float] = {}
    input_errors = [torch.zeros_like(inputs[0])]
    for k in range(depth):
        z_error = _through(input_errors[k], weights[k].t()) + inputs[k] @ weights[k].t() + trace.biases[k].abs()
        if k < depth - 1:
            # f may be, like z Φ(z), z times the difference of numbers near 1.
            read = trace.norms[k].n if norms else trace.outputs[k]
            if norms:
                errors |= norms[k].statistics(k, z_error)
                z_error = norms[k].forward(z_error)
            error = z_error * trace.slopes[k].abs() + read.abs()
            input_errors.append(torch.maximum(_masked(error, trace.masks[k + 1]), inputs[k + 1]))
    worst = float(z_error.max())
    # A probability near 1 or a loss near 0 is the difference of numbers near 1, or near the logits.
    delta_error = torch.full_like(deltas[-1], trace.steepest * (1 + worst))
    errors |= {
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
        da_error = _masked(_through(delta_error, weights[k]) + deltas[k] @ weights[k], trace.masks[k])
        if k:
            # f′ is of the order of 1 and may be, like 1 − a², the difference of such numbers.
            da = _masked(trace.deltas[k] @ trace.weights[k], trace.masks[k])
            delta_error = da_error * trace.slopes[k - 1].abs() + da.abs()
            if norms:
                parameters, delta_error = norms[k - 1].backward(delta_error)
                errors |= {f"norms.{k - 1}.{name}": error for name, error in parameters.items()}
    errors["dx"] = float(da_error.max())
    return errors


class _Norm:
    """The errors of one norm, N = γ ẑ + β and back."""

    def __init__(self, trace: NormTrace) -> None:
        self.trace, axis = trace, trace.axis
        self.count = trace.z.shape[axis]
        var, self.mean = torch.var_mean(trace.z, axis, keepdim=True, correction=0)
        self.inverse_std = torch.rsqrt(var + 1e-5)
        self.z_hat = (trace.z - self.mean) * self.inverse_std

    def statistics(self, k: int, z_error: Tensor) -> dict[str, float]:
        """Of the running mean and variance, of which a tenth is new."""
        z = self.trace.z
        mean = self._mean(z_error) + self._mean(z) + 1
        var = 2 * self._mean((z - self.mean) * (z_error + z.abs())) + (z - self.mean).square().mean(0) + 1
        return {f"norms.{k}.running_mean": float(mean.max()), f"norms.{k}.running_var": float(var.max())}

    def forward(self, z_error: Tensor) -> Tensor:
        """Of N, from those of Z. σ has a relative error of its own, which scales all ẑ."""
        z, gamma, beta = self.trace.z, self.trace.gamma.abs(), self.trace.beta.abs()
        deviation = z_error + self._mean(z_error) + z.abs() + self.mean.abs()
        self.relative = self.inverse_std * self._mean(self.z_hat * deviation) + 1
        self.error = self.inverse_std * deviation + self.z_hat.abs() * self.relative
        return gamma * (self.error + self.z_hat.abs()) + beta

    def backward(self, dn_error: Tensor) -> tuple[dict[str, float], Tensor]:
        """Of dγ and dβ, and of dZ, from those of dN."""
        dn, z_hat, gamma = self.trace.dn, self.z_hat, self.trace.gamma
        product_error = ((dn_error * z_hat).square() + (dn * self.error).square()).sum(0).sqrt()
        dgamma = product_error + (dn * z_hat).abs().sum(0)
        dbeta = dn_error.square().sum(0).sqrt() + dn.abs().sum(0)
        dz_hat, error = gamma * dn, gamma.abs() * dn_error + (gamma * dn).abs()
        mean, mean_product = (part.mean(self.trace.axis, keepdim=True) for part in (dz_hat, dz_hat * z_hat))
        terms = dz_hat.abs() + mean.abs() + (z_hat * mean_product).abs()
        error = error + self._mean(error) + self._mean(dz_hat) + self.error * mean_product.abs() + terms
        products = self._mean(error * z_hat) + self._mean(dz_hat * self.error) + self._mean(dz_hat * z_hat)
        dz_error = self.inverse_std * (error + z_hat.abs() * products + terms * self.relative)
        return {"weight": float(dgamma.max()), "bias": float(dbeta.max())}, dz_error

    def _mean(self, errors: Tensor) -> Tensor:
        """Of the mean of terms that have errors."""
        return errors.square().sum(self.trace.axis, keepdim=True).sqrt() / self.count


def _masked(errors: Tensor, mask: Tensor | None) -> Tensor:
    return errors if mask is None else errors * mask


def _through(left: Tensor, right: Tensor) -> Tensor:
    """The error of a matrix product one factor of which has errors."""
    return (left.square() @ right.square()).sqrt()
