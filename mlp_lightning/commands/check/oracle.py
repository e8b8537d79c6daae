"""The oracle of gradients: the same network and loss of torch.nn.functional, differentiated by autograd.

Nothing here shares a formula with the package. This file and ``check_oracle_rules.py``, with the tests and benchmarks,
are where torch.autograd and the algorithms of torch.optim may appear.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.commands.check.oracle_mixup import total_weight
from mlp_lightning.commands.check.rounding import NormTrace, Trace
from mlp_lightning.nn import ACTIVATIONS


class Gradients(NamedTuple):
    """The tensors of one minibatch, and what they were computed from.

    ``values`` are in the order in which backpropagation computes them: logits, loss, dlogits, the gradients under their
    parameters' names from the last layer to the first, and dx. ``running`` are batch norm's statistics after it.
    """

    values: dict[str, Tensor]
    trace: Trace
    running: dict[str, Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """Of the whole computation."""
        return self.values["logits"].dtype

    @property
    def sides(self) -> list[Tensor]:
        """Which units of each hidden layer read a number above 0, ``(B, H)``."""
        return [number > 0 for number in self.trace.read]


class KLTo(NamedTuple):
    """Stands for targets where the loss is ``weight`` · Σ_i KL(p_i ‖ softmax(logits)_i), p a constant."""

    log_p: Tensor
    weight: float


def gradients(
    parameters: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor | KLTo,
    options: Mapping[str, Any],
    dtype: torch.dtype,
    kept: Sequence[Tensor | None] = (),
    sides: Sequence[Tensor] = (),
) -> Gradients:
    """Forward with torch.nn.functional, backward with autograd.

    Args:
        parameters: ``layers.k.weight`` ``(H, D)`` and ``layers.k.bias`` ``(H,)`` for k = 0, 1, …, and with a norm
            ``norms.k.weight``, ``norms.k.bias`` and batch norm's running statistics ``(H,)``.
        x: ``(B, D)``.
        y: ``(B,)``, int64, or probabilities ``(B, K)``, or what to be near to.
        options: the options of ``MLPModule``.
        dtype: of the whole computation.
        kept: which entries of each layer's input dropout keeps, ``(B, D)`` of bool, None for all; empty for no dropout.
        sides: which units of each hidden layer lie above the kink of an activation whose slope jumps, ``(B, H)`` of
            bool; empty for what their numbers say.
    """
    depth = sum(name.startswith("layers.") for name in parameters) // 2
    norm = Norms(parameters, options, dtype)
    # Autograd, the oracle: the only place in the package where it records anything.
    with torch.enable_grad():
        weights, biases = (
            [_tracked(parameters[f"layers.{k}.{kind}"], dtype) for k in range(depth)] for kind in ("weight", "bias")
        )
        masks = [_mask(share, k, options, dtype) for k, share in enumerate(kept)] or [None] * depth
        a, inputs, outputs, normed, activated = _tracked(x, dtype), [], [], [], []
        dx_of = a
        for k in range(depth):
            mask = masks[k]
            inputs.append(a if mask is None else a * mask)
            outputs.append(F.linear(inputs[k], weights[k], biases[k]))
            if k < depth - 1:
                normed.append(norm(k, outputs[k]))
                f = ACTIVATIONS[options["activation"]].module()
                a = _on_side(normed[k], sides[k], options) if sides else f(normed[k])
                activated.append(a)
        logits = outputs[-1]
        loss = _loss(logits, y, options)
        slopes = [torch.autograd.grad(a.sum(), n, retain_graph=True)[0] for a, n in zip(activated, normed, strict=True)]
        places = [*weights, *biases, *outputs, *normed, *norm.gammas, *norm.betas, dx_of]
        derivatives = torch.autograd.grad(loss, places)
    dweights, dbiases, deltas = (derivatives[i * depth : (i + 1) * depth] for i in range(3))
    norm_deltas, dgammas, dbetas = (
        derivatives[3 * depth + i * (depth - 1) : 3 * depth + (i + 1) * (depth - 1)] for i in range(3)
    )
    values = {"logits": logits.detach(), "loss": loss.detach(), "dlogits": deltas[-1]}
    for k in reversed(range(depth)):
        values[f"layers.{k}.weight"], values[f"layers.{k}.bias"] = dweights[k], dbiases[k]
        if k and norm.gammas:
            values[f"norms.{k - 1}.weight"], values[f"norms.{k - 1}.bias"] = dgammas[k - 1], dbetas[k - 1]
    values["dx"] = derivatives[-1]
    trace = Trace(
        weights=_detached(weights),
        biases=_detached(biases),
        inputs=_detached(inputs),
        outputs=_detached(outputs),
        masks=masks,
        norms=norm.traces(_detached(outputs[:-1]), _detached(normed), norm_deltas) if norm.gammas else [],
        slopes=slopes,
        deltas=deltas,
        loss=values["loss"],
        steepest=_steepest(values["logits"], y, options),
    )
    return Gradients(values, trace, norm.running)


def _on_side(n: Tensor, side: Tensor, options: Mapping[str, Any]) -> Tensor:
    """The straight line of the activation on a given side of its kink."""
    slope = -ACTIVATIONS[options["activation"]].module()(n.new_tensor(-1.0))
    return n * torch.where(side, n.new_ones(()), slope)


def _tracked(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype, copy=True).requires_grad_()


class Norms:
    """The configured norm of each hidden layer, of torch.nn.functional; ``running`` follow what it is called with."""

    def __init__(self, parameters: Mapping[str, Tensor], options: Mapping[str, Any], dtype: torch.dtype) -> None:
        self.kind = options["norm"]
        count = sum(name.startswith("norms.") and name.endswith(".weight") for name in parameters)
        self.gammas = [_tracked(parameters[f"norms.{k}.weight"], dtype) for k in range(count)]
        self.betas = [_tracked(parameters[f"norms.{k}.bias"], dtype) for k in range(count)]
        self.running = {name: value.to(dtype, copy=True) for name, value in parameters.items() if ".running_" in name}

    def __call__(self, k: int, z: Tensor) -> Tensor:
        """N_k."""
        if self.kind == "layer":
            return F.layer_norm(z, z.shape[1:], self.gammas[k], self.betas[k])
        if self.kind == "batch" and len(z) == 1:
            # torch refuses a single sample, whose deviations from the mean are 0; so are their derivatives.
            return (z - z) * self.gammas[k] + self.betas[k]
        if self.kind == "batch":
            mean, var = (self.running[f"norms.{k}.running_{name}"] for name in ("mean", "var"))
            return F.batch_norm(z, mean, var, self.gammas[k], self.betas[k], training=True)
        return z

    def traces(self, z: Sequence[Tensor], n: Sequence[Tensor], deltas: Sequence[Tensor]) -> list[NormTrace]:
        """Of every norm, from Z, N and dN."""
        axis = 1 if self.kind == "layer" else 0
        return [
            NormTrace(axis, gamma.detach(), beta.detach(), z_k, n_k, dn)
            for gamma, beta, z_k, n_k, dn in zip(self.gammas, self.betas, z, n, deltas, strict=True)
        ]


def _mask(kept: Tensor | None, k: int, options: Mapping[str, Any], dtype: torch.dtype) -> Tensor | None:
    """Zeros, and the reciprocal of the probability to keep, which comes in steps of 2⁻¹⁶."""
    if kept is None:
        return None
    p = options["input_dropout"] if k == 0 else options["dropout"]
    return kept.to(dtype) / max(1 - round(p * 2**16) / 2**16, 2**-16)


def _detached(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach() for tensor in tensors]


def _steepest(logits: Tensor, y: Tensor | KLTo, options: Mapping[str, Any]) -> float:
    """The largest |dlogits| that one sample can cause."""
    if isinstance(y, KLTo):
        return y.weight
    mean = options["reduction"] == "mean"
    if options["loss"] == "mse":
        return 2 * (1 + float(logits.abs().max())) / (logits.numel() if mean else 1)
    weights = torch.tensor(options["class_weights"] or [1.0] * logits.shape[1])
    return float(weights.max() / (total_weight(weights, y) if mean else 1))


def _loss(logits: Tensor, y: Tensor | KLTo, options: Mapping[str, Any]) -> Tensor:
    if isinstance(y, KLTo):
        return y.weight * F.kl_div(F.log_softmax(logits, 1), y.log_p, reduction="sum", log_target=True)
    reduction, mixed = options["reduction"], y.ndim == 2
    if mixed:
        y = y.to(logits)
    if options["loss"] == "mse":
        return F.mse_loss(logits, y if mixed else F.one_hot(y, logits.shape[1]).to(logits), reduction=reduction)
    weights = torch.tensor(options["class_weights"] or [1.0] * logits.shape[1]).to(logits)
    # The mean over probabilities divides by B in torch, whatever the classes weigh.
    loss = F.cross_entropy(
        logits,
        y,
        weight=None if options["class_weights"] is None else weights,
        reduction="sum" if mixed else reduction,
        label_smoothing=options["label_smoothing"],
    )
    return loss / total_weight(weights, y) if mixed and reduction == "mean" else loss
