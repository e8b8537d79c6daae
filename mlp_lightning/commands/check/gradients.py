"""The gradients of one minibatch against torch.autograd."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.commands.check import oracle as check_oracle
from mlp_lightning.commands.check.rounding import ALLOWED, rounding_errors
from mlp_lightning.commands.check.sides import on_our_sides, remark
from mlp_lightning.commands.check.verdict import Table, compare, dtype_name
from mlp_lightning.nn import MLP
from mlp_lightning.nn.losses import Loss
from mlp_lightning.nn.training_pass import TrainingPass
from mlp_lightning.training.options import make_dropout, make_loss


def our_gradients(
    network: MLP, x: Tensor, y: Tensor, options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Logits, loss and hand-derived gradients of one minibatch, under the oracle's names, and the units above 0.

    Args:
        network: ``flat_grad`` is overwritten, and the result holds views of it.
        x: ``(B, D)``, in the network's dtype.
        y: ``(B,)``, or probabilities ``(B, K)``.
        options: the options of ``MLPModule``.
    """
    loss = configured_loss(options)
    logits, cache = network(x, training_pass(network, options, 0, len(x)))
    value, loss_cache = loss.forward(logits, y)
    dlogits = loss.backward(loss_cache)
    dx = network.backward(dlogits, cache, input_gradient=True)
    assert dx is not None
    values = {"logits": logits, "loss": value, "dlogits": dlogits, **parameter_gradients(network), "dx": dx}
    return values, [read > 0 for _, read, _ in cache[:-1]]


def training_pass(network: MLP, options: Mapping[str, Any], step: int, rows: int) -> TrainingPass:
    """What the passes of a step on ``rows`` samples take, on one process."""
    dropout = make_dropout(network, options, network.flat.dtype)
    return TrainingPass(rows, dropout.masks(step, rows) if dropout is not None else ())


def kept_entries(network: MLP, options: Mapping[str, Any], step: int, rows: int) -> list[Tensor | None]:
    """Which entries of each layer's input that step keeps; empty without dropout."""
    return [None if mask is None else mask != 0 for mask in training_pass(network, options, step, rows).masks]


def configured_loss(options: Mapping[str, Any]) -> Loss:
    """The loss with its own reduction, where ``MLPModule`` takes the sum and scales it."""
    smoothing, weights = options["label_smoothing"], options["class_weights"]
    return make_loss(options["loss"], options["reduction"], label_smoothing=smoothing, class_weights=weights)


def parameter_gradients(network: MLP) -> dict[str, Tensor]:
    """The views of ``flat_grad``, from the last layer to the first."""
    named = {}
    for k, layer in reversed(list(enumerate(network.layers))):
        named[f"layers.{k}.weight"] = layer.dweight
        named[f"layers.{k}.bias"] = layer.dbias
        if 0 < k <= len(network.norms):
            named[f"norms.{k - 1}.weight"] = network.norms[k - 1].dgamma
            named[f"norms.{k - 1}.bias"] = network.norms[k - 1].dbeta
    return named


def allowance(oracle64: Tensor, oracle32: Tensor, errors: float, dtype: torch.dtype) -> float:
    """The error that rounding to ``dtype`` may cause in a tensor.

    It is measured: the oracle in float32 is off the oracle in float64 by e, and since rounding errors are of first
    order in eps, a right computation in ``dtype`` is off by about e · eps / eps₃₂. As chance may make e small, and
    saturation bounds it, it is computed as well, as a number of eps. Ten times either is allowed.

    Args:
        oracle64: the tensor, in float64.
        oracle32: the same from a computation in float32.
        errors: the tensor's entry in ``rounding_errors``.
        dtype: of the computation that is judged.
    """
    measured = float((oracle32.to(torch.float64) - oracle64).abs().max())
    return ALLOWED * torch.finfo(dtype).eps * (measured / torch.finfo(torch.float32).eps + errors)


def mixed_allowance(exact: Tensor, coarse: Tensor, dtype: torch.dtype) -> float:
    """The error that products in ``dtype`` may cause in a tensor.

    Four times what autograd makes of it with everything in that dtype, and as chance may make that small, four eps of
    the largest entry. A formula is not proved by it: the same one is, in float32. A product that leaves out or repeats
    a part of its operands is found.

    Args:
        exact: the tensor, in float64.
        coarse: the same from a computation in ``dtype``.
        dtype: of the products.
    """
    measured = float((coarse.to(torch.float64) - exact).abs().max())
    return 4 * (measured + torch.finfo(dtype).eps * float(exact.abs().max()))


def check_gradients(network: MLP, x: Tensor, y: Tensor, options: Mapping[str, Any]) -> Table:
    """Logits, loss and every gradient, computed in the network's dtype.

    Args:
        network: ``flat_grad`` is overwritten.
        x: ``(B, D)``, in any dtype.
        y: ``(B,)``, or probabilities ``(B, K)``.
        options: the options of ``MLPModule``.
    """
    dtype = network.flat.dtype
    x = x.to(dtype)
    kept = kept_entries(network, options, 0, len(x))

    def oracle(oracle_dtype: torch.dtype, sides: Sequence[Tensor]) -> check_oracle.Gradients:
        return check_oracle.gradients(network.state_dict(), x, y, options, oracle_dtype, kept, sides)

    ours, our_sides = our_gradients(network, x, y, options)
    found = on_our_sides(oracle, our_sides, options["activation"], dtype)
    errors = rounding_errors(found.exact.trace)
    rows = []
    for name, expected in found.exact.values.items():
        allowed = allowance(expected, found.rough.values[name], errors[name], dtype)
        rows.append(compare(name, ours[name], expected, allowed))
    caption = (
        f"Gradients of {options['loss']} ({options['reduction']}) in {dtype_name(dtype)}, {len(x)} samples: ours "
        "against torch.autograd's in float64.\n"
        f"Tolerated: {ALLOWED} times what rounding does to this network's gradients, measured in autograd itself plus "
        "the probable error of the sums.\n"
        "In the order of computation: a fault shows in its own row and in those that follow from it."
        f"{remark(options, found.followed, sum(side.numel() for side in our_sides))}"
    )
    return Table(f"gradients, {dtype_name(dtype)}", caption, rows)
