"""From option names to a loss, an update rule and a schedule; one clear error for whatever does not fit together."""

import inspect
import math
from typing import Any, Literal

import torch
from torch import Tensor

from mlp_lightning.errors import UserError
from mlp_lightning.nn import MeanSquaredError, SoftmaxCrossEntropy
from mlp_lightning.nn.losses import Reduction
from mlp_lightning.optim import OPTIMIZERS
from mlp_lightning.optim.schedules import Schedule, constant, cosine, one_cycle, step_decay, warmup

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "adam_norm"]
ScheduleName = Literal["constant", "step", "cosine", "one_cycle"]

OPTIMIZER_OPTIONS = (
    "momentum",
    "dampening",
    "nesterov",
    "weight_decay",
    "beta1",
    "beta2",
    "eps",
    "amsgrad",
    "alpha",
    "centered",
)
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"step_epochs": 5.0, "gamma": 0.1},
    "cosine": {"final_factor": 0.0},
    "one_cycle": {"pct_start": 0.3},
}
SCHEDULE_OPTIONS = tuple(name for settings in SCHEDULES.values() for name in settings)


def make_loss(
    name: str, reduction: Reduction, *, label_smoothing: float, class_weights: list[float] | None
) -> SoftmaxCrossEntropy | MeanSquaredError:
    """The loss ``name``.

    Raises:
        UserError: an option that the loss does not take, or a value outside its range.
    """
    if name == "mse":
        for option, value in (("label_smoothing", label_smoothing), ("class_weights", class_weights)):
            if value:
                raise UserError(f"model.{option}: got {value}, but loss mse does not take it")
        return MeanSquaredError(reduction)
    weights = None if class_weights is None else torch.tensor(class_weights)
    try:
        return SoftmaxCrossEntropy(reduction, label_smoothing=label_smoothing, class_weights=weights)
    except ValueError as error:
        raise UserError(f"model.{error}") from error


def make_optimizer(
    flat: Tensor, weight_numel: int, name: str, lr: float, options: dict[str, Any]
) -> torch.optim.Optimizer:
    """The rule ``name`` on the one tensor ``flat``. Options that are None keep the rule's own default.

    Raises:
        UserError: an option that the rule does not take, or a value outside its range.
    """
    rule = OPTIMIZERS[name]
    accepted = inspect.signature(rule).parameters
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in accepted:
            known = ", ".join(option for option in options if option in accepted)
            raise UserError(f"model.{key}: got {value}, but {name} does not take it; it takes {known or 'none'}")
    if "weight_numel" in accepted:
        given["weight_numel"] = weight_numel
    try:
        optimizer = rule([flat], lr=lr, **given)
    except ValueError as error:
        raise UserError(f"model.{error}") from error
    largest = torch.finfo(torch.float32).max
    for key, value in {"lr": lr, **given}.items():
        if value > largest:
            raise UserError(f"model.{key}: got {value}, must be at most {largest:.2g}, the largest 32-bit number")
    return optimizer


def make_schedule(
    name: str, options: dict[str, Any], *, warmup_epochs: float, steps_per_epoch: int, total_steps: float
) -> Schedule:
    """The multiplier of the learning rate as a function of the step.

    Args:
        name: A key of ``SCHEDULES``.
        options: The options of every schedule; None keeps the default in ``SCHEDULES``.
        warmup_epochs: Length of the linear rise before the schedule proper, in epochs.
        steps_per_epoch: Converts epochs to steps.
        total_steps: Length of the whole training; infinite when the trainer has no end.

    Raises:
        UserError: an option that the schedule does not take, a value outside its range, or a schedule that needs the
            length of a training without end.
    """
    settings = dict(SCHEDULES[name])
    for key, value in options.items():
        if value is not None:
            if key not in settings:
                known = ", ".join(settings) or "none"
                raise UserError(f"model.{key}: got {value}, but schedule {name} does not take it; it takes {known}")
            settings[key] = value
    if not (warmup_epochs >= 0 and math.isfinite(warmup_epochs)):
        raise UserError(f"model.warmup_epochs: got {warmup_epochs}, must be zero or more and finite")
    if not 0 < settings.get("step_epochs", 1.0) < math.inf:
        raise UserError(f"model.step_epochs: got {settings['step_epochs']}, must be above zero and finite")
    rise = round(warmup_epochs * steps_per_epoch)
    if rise and name == "one_cycle":
        raise UserError(f"model.warmup_epochs: got {warmup_epochs}, but schedule one_cycle has a rise of its own")
    if name in ("cosine", "one_cycle"):
        if not math.isfinite(total_steps):
            raise UserError(f"model.schedule: {name} needs an end: set trainer.max_epochs or trainer.max_steps")
        if rise >= total_steps:
            raise UserError(
                f"model.warmup_epochs: got {warmup_epochs}, which leaves no step of the training's {total_steps}"
            )
    try:
        if name == "step":
            step_size = max(1, round(settings["step_epochs"] * steps_per_epoch))
            schedule = step_decay(step_size, settings["gamma"])
        elif name == "cosine":
            schedule = cosine(int(total_steps) - rise, settings["final_factor"])
        elif name == "one_cycle":
            schedule = one_cycle(int(total_steps) - rise, settings["pct_start"])
        else:
            schedule = constant()
    except ValueError as error:
        raise UserError(f"model.{error}") from error
    return warmup(schedule, rise) if rise else schedule
