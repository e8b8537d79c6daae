"""Kinks: where rounding decides on which side of a kink a unit lies, the oracle takes the side on which ours has it.

The slope of relu and leaky_relu jumps at 0. Where a unit's activation reads a number that is nearer to 0 than rounding
moves it, two right computations may put the unit on different sides, by the processor and the order of a sum. Their
gradients then differ by all that the unit contributes, which no tolerance could allow without hiding faults.

So sides are compared first. A unit within the bound below is taken on our side by both oracles, whose gradients are
compared with ours as anywhere else. Beyond the bound the oracles keep their own side, and a unit that ours has on the
other one makes the gradient wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.commands.check.oracle import Gradients
from mlp_lightning.commands.check.rounding import ALLOWED, forward_errors
from mlp_lightning.engines.passes import Passes
from mlp_lightning.nn import ACTIVATIONS
from mlp_lightning.nn.training_pass import TrainingPass

Compute = Callable[[torch.dtype, Sequence[Tensor]], Gradients]


class Oracles(NamedTuple):
    """The oracle in float64 and in float32, of the same sides; how many units take ours instead of their own."""

    exact: Gradients
    rough: Gradients
    followed: int = 0


class Pass(NamedTuple):
    """A forward pass of ours: its input ``(B, D)``, and which units of each hidden layer are above 0, ``(B, H)``."""

    x: Tensor
    sides: Sequence[Tensor]


def on_our_sides(compute: Compute, ours: Sequence[Tensor], activation: str, dtype: torch.dtype) -> Oracles:
    """Both oracles, with units that rounding may put on either side of a kink where ours has them.

    The bound is ten times what the running error analysis and a measurement make of a number's rounding. The analysis
    gives each number its own error (``forward_errors``). As it knows neither the order nor the length of the sums, the
    layer's worst number in float32 tells how much larger the errors are.

    Args:
        compute: makes the oracle in a dtype, with sides of the hidden layers or, if empty, their own.
        ours: the sides of our pass.
        activation: a key of ``ACTIVATIONS``.
        dtype: of our pass.
    """
    exact, rough = compute(torch.float64, ()), compute(torch.float32, ())
    if ACTIVATIONS[activation].kink != "slope" or (_agree(exact.sides, ours) and _agree(exact.sides, rough.sides)):
        return Oracles(exact, rough)
    sides, count = [], 0
    layers = zip(exact.trace.read, rough.trace.read, forward_errors(exact.trace).read, exact.sides, ours, strict=True)
    for number, rounded, error, side, our_side in layers:
        apart = (number.abs() <= side_bound(number, rounded, error, dtype)) & (side != our_side)
        sides.append(side ^ apart)
        count += int(apart.sum())
    return Oracles(compute(torch.float64, sides) if count else exact, compute(torch.float32, sides), count)


def side_bound(number: Tensor, rounded: Tensor, error: Tensor, dtype: torch.dtype) -> Tensor:
    """How near to 0 a right computation in ``dtype`` may have any sign, for each number.

    Args:
        number: in float64.
        rounded: from the same computation in float32.
        error: the probable error in units of eps.
        dtype: of the computation that is judged.
    """
    # Numbers that are not finite say nothing of rounding.
    units = ((rounded.to(torch.float64) - number).abs() / error).nan_to_num(0.0, 0.0)
    measured = float(units.max()) / torch.finfo(torch.float32).eps if units.numel() else 0.0
    return ALLOWED * torch.finfo(dtype).eps * error * (1 + measured)


def watch(passes: Passes) -> list[Pass]:
    """Let passes note each forward pass in the list returned, newest last; whoever reads them clears it."""
    seen: list[Pass] = []
    forward = passes.forward

    def noted(x: Tensor, training: TrainingPass | None = None) -> Tensor:
        logits = forward(x, training)
        # Buffers, which the next pass overwrites.
        seen.append(Pass(x.clone(), [a > 0 for a in passes.activations]))
        return logits

    passes.forward = noted  # type: ignore[method-assign]
    return seen


def remark(options: Mapping[str, Any], followed: int, units: int) -> str:
    """The line of a table's caption that says how many units were taken on our side; empty without a kink."""
    if ACTIVATIONS[options["activation"]].kink != "slope":
        return ""
    return f"\nUnits so near to 0 that rounding decides their side of the kink, taken on ours: {followed} of {units:,}."


def _agree(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
