"""What the options of a model make, for any loop: a network, its rule, schedule and average, and the steps' recipe."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any, get_args

import torch

from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.errors import UserError
from mlp_lightning.nn import ACTIVATIONS, INITIALIZERS, LOSSES, MLP
from mlp_lightning.nn.losses import Loss, Reduction
from mlp_lightning.nn.norm import NormName
from mlp_lightning.optim import OPTIMIZERS
from mlp_lightning.optim.averaging import Averaging
from mlp_lightning.optim.schedules import Schedule
from mlp_lightning.optim.update_rule import UpdateRule
from mlp_lightning.training.options import (
    ADVERSARY_OPTIONS,
    AVERAGING_OPTIONS,
    AVERAGINGS,
    OPTIMIZER_OPTIONS,
    SCHEDULE_OPTIONS,
    SCHEDULES,
    make_adversary,
    make_averaging,
    make_constraints,
    make_dropout,
    make_optimizer,
    make_schedule,
    make_transforms,
)

Options = Mapping[str, Any]

# The options of a model, those of ``MLPModule``.
DEFAULTS: dict[str, Any] = {
    "hidden": [500, 250, 100],
    "activation": "relu",
    "init": "he_normal",
    "norm": "none",
    "dropout": 0.0,
    "input_dropout": 0.0,
    "loss": "cross_entropy",
    "reduction": "mean",
    "label_smoothing": 0.0,
    "class_weights": None,
    "optimizer": "adam",
    "lr": 0.001,
    **dict.fromkeys(OPTIMIZER_OPTIONS),
    "schedule": "constant",
    "warmup_epochs": 0.0,
    **dict.fromkeys(SCHEDULE_OPTIONS),
    "clip_norm": None,
    "clip_value": None,
    "l1": 0.0,
    "max_norm": None,
    "averaging": "none",
    **dict.fromkeys(AVERAGING_OPTIONS),
    "vat": 0.0,
    **dict.fromkeys(ADVERSARY_OPTIONS),
    "nonfinite": "stop",
    "shard_optimizer": False,
    "overlap_reduction": False,
    "seed": 0,
}
# The names of which an option is one.
NAMED: dict[str, Collection[str]] = {
    "activation": ACTIVATIONS,
    "init": INITIALIZERS,
    "norm": get_args(NormName),
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "averaging": AVERAGINGS,
    "reduction": get_args(Reduction),
    "nonfinite": ("stop", "skip"),
}


def check_options(options: Options) -> None:
    """Refuse values outside their ranges and options that do not fit together, before any data is loaded.

    Raises:
        UserError: the first of them.
    """
    for name, known in NAMED.items():
        if options[name] not in known:
            raise UserError(f"model.{name}: got {options[name]}, must be one of {', '.join(known)}")
    for width in options["hidden"]:
        if width < 1:
            raise UserError(f"model.hidden: got {options['hidden']}, every width must be at least 1")
    for name in ("dropout", "input_dropout", "clip_norm", "clip_value", "max_norm", "l1", "vat", "warmup_epochs"):
        if not (options[name] is None or isinstance(options[name], Real)):
            raise UserError(f"model.{name}: got {options[name]!r}, must be a number")
    for name in ("dropout", "input_dropout"):
        if not 0 <= options[name] < 1:
            raise UserError(f"model.{name}: got {options[name]}, must be in [0, 1)")
    for name in ("clip_norm", "clip_value", "max_norm"):
        limit = options[name]
        if limit is not None and not (limit > 0 and math.isfinite(limit)):
            raise UserError(f"model.{name}: got {limit}, must be above zero and finite")
    if not 0 <= options["l1"] < math.inf:
        raise UserError(f"model.l1: got {options['l1']}, must be zero or more and finite")
    make_adversary(MLP([1, 1]), options["vat"], _of(options, ADVERSARY_OPTIONS), loss=options["loss"])
    make_optimizer(torch.zeros(1), [(1, 1)], options["optimizer"], options["lr"], _of(options, OPTIMIZER_OPTIONS))
    schedule_of(options, steps_per_epoch=1, total_steps=10**9)
    averaging_of(options, total_steps=10**9)


def network_of(options: Options, sizes: Sequence[int], dtype: torch.dtype | None = None) -> MLP:
    """A network of those widths, with initial weights drawn from the option ``seed``."""
    generator = torch.Generator().manual_seed(options["seed"])
    norm = options["norm"]
    return MLP(sizes, options["activation"], options["init"], norm=norm, generator=generator, dtype=dtype)


def rule_of(options: Options, network: MLP) -> UpdateRule:
    """The update rule on a network."""
    shapes = [(fan_out, fan_in) for fan_in, fan_out in itertools.pairwise(network.sizes)]
    name, own = options["optimizer"], _of(options, OPTIMIZER_OPTIONS)
    rule = make_optimizer(network.flat, shapes, name, options["lr"], own)
    assert isinstance(rule, UpdateRule)
    return rule


def schedule_of(options: Options, steps_per_epoch: int, total_steps: float) -> Schedule:
    """The multiplier of the learning rate for a training of that length."""
    return make_schedule(
        options["schedule"],
        _of(options, SCHEDULE_OPTIONS),
        warmup_epochs=options["warmup_epochs"],
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )


def averaging_of(options: Options, total_steps: float) -> Averaging | None:
    """The share of the newest weights in their average for a training of that length; None for no average."""
    return make_averaging(options["averaging"], _of(options, AVERAGING_OPTIONS), total_steps=total_steps)


def recipe_of(
    options: Options,
    network: MLP,
    loss: Loss,
    rule: UpdateRule,
    products: torch.dtype | None = None,
    **of_training: Any,
) -> StepRecipe:
    """What a step consists of.

    Args:
        options: those of the model.
        network: on its device.
        loss: with reduction ``"sum"``.
        rule: on the network.
        products: the dtype of the matrix products; None for the parameter's.
        of_training: what else ``StepRecipe`` takes, in the place of what the options say.
    """
    vat, adversary = options["vat"], _of(options, ADVERSARY_OPTIONS)
    of_options = {
        "reduction": options["reduction"],
        "transforms": make_transforms(options["clip_norm"], options["clip_value"]),
        "constraints": make_constraints(options["l1"], options["max_norm"]),
        "dropout": make_dropout(network, options, products or network.flat.dtype),
        "adversary": make_adversary(network, vat, adversary, loss=options["loss"], dtype_of_products=products),
        "nonfinite": options["nonfinite"],
        "seed": options["seed"],
    }
    return StepRecipe(network=network, loss=loss, rule=rule, products=products, **(of_options | of_training))


def _of(options: Options, names: Sequence[str]) -> dict[str, Any]:
    return {name: options[name] for name in names}
