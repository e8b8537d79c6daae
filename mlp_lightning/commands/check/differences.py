"""Sampled entries of every gradient against central differences of our own loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.commands.check import oracle as check_oracle
from mlp_lightning.commands.check.gradients import (
    configured_loss,
    kept_entries,
    our_gradients,
    parameter_gradients,
    training_pass,
)
from mlp_lightning.commands.check.rounding import ALLOWED, rounding_errors
from mlp_lightning.commands.check.verdict import Row, Table, compare
from mlp_lightning.nn import ACTIVATIONS, MLP

ENTRIES = 4
CANDIDATES = 32
EPS = torch.finfo(torch.float64).eps
# Balances the truncation, of order h², against the rounding, of order eps / h.
STEP = EPS ** (1 / 3)
RELATIVE_TOLERANCE = 1e-6


def check_differences(network: MLP, x: Tensor, y: Tensor, options: Mapping[str, Any]) -> Table:
    """(ℓ(θ + h) − ℓ(θ − h)) / 2h against dℓ/dθ at a few entries of every parameter and of x.

    An entry is the likelier to be drawn the larger its gradient. One whose step carries a unit over the kink of its
    activation is drawn again, for there the difference is no derivative; a tensor without other entries is left out,
    as the caption says. Twice the step tells how far the difference is from the derivative.

    Args:
        network: in float64; ``flat_grad`` is overwritten.
        x: ``(B, D)``, in any dtype.
        y: ``(B,)``, or probabilities ``(B, K)``.
        options: the options of ``MLPModule``.
    """
    x = x.to(torch.float64, copy=True)
    ours, _ = our_gradients(network, x, y, options)
    masks = kept_entries(network, options, 0, len(x))
    trace = check_oracle.gradients(network.state_dict(), x, y, options, torch.float64, masks).trace
    rounding = ALLOWED * EPS * rounding_errors(trace)["loss"] / STEP
    quotients = _Quotients(network, x, y, options)
    generator = torch.Generator().manual_seed(0)
    rows: list[Row] = []
    left_out: list[str] = []
    places = {**network.state_dict(), "dx": x}
    for name in (*parameter_gradients(network), "dx"):
        values, gradient = places[name], ours[name].reshape(-1)
        # |g| over an exponential variate: the largest of these are a draw without replacement, weighted by |g|.
        keys = gradient.abs() / torch.empty_like(gradient).exponential_(generator=generator)
        candidates = keys.topk(min(CANDIDATES, len(keys))).indices.tolist()
        entries, fine, coarse = quotients.at(values.view(-1), candidates)
        if not entries:
            left_out.append(name)
        else:
            truncation = float((fine - coarse).abs().max())
            allowed = RELATIVE_TOLERANCE * float(fine.abs().max()) + truncation + rounding
            shape = " × ".join(str(size) for size in values.shape)
            row = compare(name, gradient[entries], fine, allowed)
            rows.append(row._replace(shape=f"{len(entries)} of {shape}"))
    caption = (
        f"Gradients of {options['loss']} ({options['reduction']}) in float64, {len(x)} samples: ours against central "
        f"differences of our own loss, h = {STEP:.0e}.\n"
        f"Tolerated: {RELATIVE_TOLERANCE:.0e}, {ALLOWED} roundings of the loss over h, and what a step of 2h changes."
        + (f"\nLeft out, since every step tried crosses a kink: {', '.join(left_out)}." if left_out else "")
    )
    return Table("differences, float64", caption, rows)


class _Quotients:
    """Central differences of the loss of one minibatch."""

    def __init__(self, network: MLP, x: Tensor, y: Tensor, options: Mapping[str, Any]) -> None:
        self.network, self.x, self.y = network, x, y
        self.loss = configured_loss(options)
        self.training = training_pass(network, options, 0, len(x))
        self.kinked = ACTIVATIONS[options["activation"]].kink is not None

    def at(self, values: Tensor, candidates: list[int]) -> tuple[list[int], Tensor, Tensor]:
        """The first few of the candidate entries that stay clear of kinks, with their quotients for h and 2h."""
        entries: list[int] = []
        quotients: list[list[float]] = []
        for entry in candidates:
            start = values[entry].clone()
            losses, signs = [], []
            for multiple in (1, -1, 2, -2):
                values[entry] = start + multiple * STEP
                loss, above = self._evaluate()
                losses.append(loss)
                signs.append(above)
            values[entry] = start
            if not self.kinked or all(torch.equal(signs[0], other) for other in signs[1:]):
                entries.append(entry)
                quotients.append([(losses[0] - losses[1]) / (2 * STEP), (losses[2] - losses[3]) / (4 * STEP)])
            if len(entries) == ENTRIES:
                break
        fine, coarse = torch.tensor(quotients, dtype=torch.float64).view(-1, 2).t()
        return entries, fine, coarse

    def _evaluate(self) -> tuple[float, Tensor]:
        """The loss, and which hidden units are above zero."""
        logits, cache = self.network(self.x, self.training)
        loss, _ = self.loss.forward(logits, self.y)
        signs = [(z > 0).view(-1) for _, z, _ in cache[:-1]]
        return float(loss), torch.cat(signs) if signs else torch.empty(0)
