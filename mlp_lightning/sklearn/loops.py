"""The loop of an estimator: a new one, or one that continues with the state of the last."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlp_lightning.errors import UserError
from mlp_lightning.loop import Loop
from mlp_lightning.nn import MLP
from mlp_lightning.nn.losses import Loss
from mlp_lightning.training.recipes import averaging_of, network_of, recipe_of, rule_of, schedule_of


class Length(NamedTuple):
    """The length of a training; ``steps`` are infinite where nobody knows its end."""

    steps_per_epoch: int
    steps: float


class Paused(NamedTuple):
    """What a pickle keeps of a loop."""

    network: MLP
    rule: dict[str, Any]
    step: int
    epoch: int


def paused(loop: Loop) -> Paused:
    """Its state, without the engine, whose memory cannot be copied."""
    return Paused(loop.network, loop.recipe.rule.state_dict(), loop.step, loop.epoch)


def new_loop(options: Mapping[str, Any], loss: Loss, network: MLP, length: Length, average: MLP | None = None) -> Loop:
    """A loop that begins with a network.

    Args:
        options: those of the estimator.
        loss: with reduction ``"sum"``.
        network: to train.
        length: how long.
        average: the average so far; None, or the network itself, to begin one with its weights.

    Raises:
        UserError: the layers of the network are not those of the options.
    """
    if [*network.sizes[1:-1]] != options["hidden"]:
        raise UserError(f"hidden: got {options['hidden']}, but the layers so far are {[*network.sizes[1:-1]]}")
    averaging, averages = averaging_of(options, length.steps), None
    if averaging is not None:
        if average is None or average is network:
            average = network_of(options, network.sizes, network.flat.dtype)
            average.load_state_dict(network.state_dict())
        averages = (averaging, average)
    recipe = recipe_of(options, network, loss, rule_of(options, network))
    schedule = schedule_of(options, length.steps_per_epoch, length.steps)
    return Loop(recipe, options["lr"], schedule, averages, options["engine"])


def continued(last: Loop | Paused, options: Mapping[str, Any], loss: Loss, length: Length, average: MLP) -> Loop:
    """A loop with the weights, the rule's state and the numbers of the last one; the options given now count."""
    before = paused(last) if isinstance(last, Loop) else last
    loop = new_loop(options, loss, before.network, length, average)
    rule = loop.recipe.rule
    rule.load_state_dict(before.rule)
    rule.param_groups[0].update(rule.defaults)
    loop.step, loop.epoch = before.step, before.epoch
    return loop
