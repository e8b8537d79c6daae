"""How far rounding may carry a right computation: what ``check`` tolerates.

A fixed tolerance would not do: a saturated unit or a sum that cancels loses digits that no formula can keep. So
rounding errors are followed through the network (running error analysis, Higham 2002, section 3.3), in units of eps:
every operation adds one eps of the terms it sums, and independent errors add as the root of their squares.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# How often the probable error may be exceeded.
ALLOWED = 10


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

    @property
    def read(self) -> Sequence[Tensor]:
        """What each hidden layer's activation reads, ``(B, H)``: N_k with norms, otherwise Z_k."""
        return [norm.n for norm in self.norms] if self.norms else self.outputs[:-1]


class ForwardErrors(NamedTuple):
    """The probable errors of a forward pass, entry by entry, in units of eps.

    Attributes:
        read: of what each hidden layer's activation reads, ``(B, H)``.
        inputs: of each layer's input, ``(B, D)``.
        logits: of the logits, ``(B, K)``.
        norms: of each norm.
        statistics: of the worst entry of batch norm's running statistics, by name.
    """

    read: list[Tensor]
    inputs: list[Tensor]
    logits: Tensor
    norms: "list[_Norm]"
    statistics: dict[str, float]


def forward_errors(trace: Trace) -> ForwardErrors:
    """The probable errors of the forward pass."""
    norms = [_Norm(norm) for norm in trace.norms]
    statistics: dict[str, float] = {}
    read_errors, input_errors = [], [torch.zeros_like(trace.inputs[0])]
    for k, (weight, bias, a) in enumerate(zip(trace.weights, trace.biases, trace.inputs, strict=True)):
        z_error = _through(input_errors[k], weight.t()) + a.abs() @ weight.abs().t() + bias.abs()
        if k < len(trace.read):
            if norms:
                statistics |= norms[k].statistics(k, z_error)
                z_error = norms[k].forward(z_error)
            read_errors.append(z_error)
            # f may be, like z Φ(z), z times the difference of numbers near 1.
            error = z_error * trace.slopes[k].abs() + trace.read[k].abs()
            input_errors.append(torch.maximum(_masked(error, trace.masks[k + 1]), trace.inputs[k + 1].abs()))
    return ForwardErrors(read_errors, input_errors, z_error, norms, statistics)


def rounding_errors(trace: Trace) -> dict[str, float]:
    """The probable error, in units of eps, of the worst entry of every tensor that backpropagation computes."""
    weights = [weight.abs() for weight in trace.weights]
    inputs = [a.abs() for a in trace.inputs]
    deltas = [delta.abs() for delta in trace.deltas]
    forward = forward_errors(trace)
    norms, input_errors, errors = forward.norms, forward.inputs, forward.statistics
    worst = float(forward.logits.max())
    # A probability near 1 or a loss near 0 is the difference of numbers near 1, or near the logits.
    delta_error = torch.full_like(deltas[-1], trace.steepest * (1 + worst))
    errors |= {
        "logits": worst,
        "loss": float(trace.loss.abs()) + trace.steepest * len(inputs[0]) * worst,
        "dlogits": float(delta_error.max()),
    }
    for k in reversed(range(len(weights))):
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
