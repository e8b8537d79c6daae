"""The average of the weights in a walk: how much of the newest weights the first step lets in."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mlp_lightning.commands.explain.step import Step, moved, number, shape, source_of
from mlp_lightning.optim.averaging import average_
from mlp_lightning.training.options import AVERAGING_OPTIONS, make_averaging


def average_steps(theta: Tensor, before: Tensor, options: Mapping[str, Any]) -> list[Step]:
    """The average after the first step; nothing where the weights are not averaged.

    Args:
        theta: the weights after the step, ``(P,)``.
        before: those before it, which the average begins with.
        options: the module's: averaging and its settings.
    """
    # At the first step the length of the training does not matter: swa begins with the newest weights, whatever it is.
    settings = {name: options[name] for name in AVERAGING_OPTIONS}
    averaging = make_averaging(options["averaging"], settings, total_steps=1)
    if averaging is None:
        return []
    share = averaging(0)
    average = average_(before.clone(), theta, share)
    return [
        Step(
            phase="update",
            name="θ̄",
            formula=f"θ̄ ← θ̄ + w (θ − θ̄),  {options['averaging']}: the weights that validate, test and predict",
            shapes=f"{shape(average)}, {shape(theta)} → {shape(average)}",
            value=average,
            source=source_of(average_),
            bytes=moved(average, theta, average),
            numbers=f"w = {number(share)} at t = 0",
        )
    ]
