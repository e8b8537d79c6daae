"""From option names to a loss, an update rule and a schedule; one clear error for whatever does not fit together."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.data.length import whole_part
from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.engines.constraints import Constraint, MaxNorm, SoftThreshold
from mlp_lightning.engines.transforms import ClipNorm, ClipValue, GradientTransform
from mlp_lightning.errors import UserError
from mlp_lightning.nn import LOSSES, MLP
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.nn.losses import Loss, Reduction
from mlp_lightning.optim import OPTIMIZERS
from mlp_lightning.optim.averaging import Averaging, ema, swa
from mlp_lightning.optim.schedules import Schedule, constant, cosine, one_cycle, step_decay, warmup

OPTIMIZER_OPTIONS = (
    "momentum",
    "dampening",
    "nesterov",
    "weight_decay",
    "decay_biases",
    "beta1",
    "beta2",
    "eps",
    "amsgrad",
    "alpha",
    "centered",
    "momentum_decay",
    "decoupled_weight_decay",
    "ns_steps",
)
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"step_epochs": 5.0, "gamma": 0.1},
    "cosine": {"final_factor": 0.0},
    "one_cycle": {"pct_start": 0.3},
}
SCHEDULE_OPTIONS = tuple(name for settings in SCHEDULES.values() for name in settings)
ADVERSARY = {"vat_eps": 2.0, "vat_xi": None, "vat_iterations": 1}
ADVERSARY_OPTIONS = tuple(ADVERSARY)
AVERAGINGS: dict[str, dict[str, Any]] = {"none": {}, "ema": {"ema_decay": 0.999}, "swa": {"swa_start": 0.75}}
AVERAGING_OPTIONS = tuple(name for settings in AVERAGINGS.values() for name in settings)


def make_loss(name: str, reduction: Reduction, *, label_smoothing: float, class_weights: list[float] | None) -> Loss:
    """The loss ``name``.

    Raises:
        UserError: an option that the loss does not take, or a value outside its range.
    """
    loss = LOSSES[name]
    accepted = inspect.signature(loss).parameters
    weights = None if class_weights is None else torch.tensor(class_weights)
    options: dict[str, Any] = {}
    for option, shown, value in (
        ("label_smoothing", label_smoothing, label_smoothing),
        ("class_weights", class_weights, weights),
    ):
        if option in accepted:
            options[option] = value
        elif shown:
            raise UserError(f"model.{option}: got {shown}, but loss {name} does not take it")
    try:
        return loss(reduction, **options)
    except ValueError as error:
        raise UserError(f"model.{error}") from error


def make_optimizer(
    flat: Tensor, weight_shapes: Sequence[tuple[int, int]], name: str, lr: float, options: dict[str, Any]
) -> torch.optim.Optimizer:
    """The rule ``name`` on the one tensor ``flat``, which begins with weight matrices of those shapes.

    Options that are None keep the rule's own default.

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
    about_weights = {"weight_numel": sum(map(math.prod, weight_shapes)), "weight_shapes": list(weight_shapes)}
    asked = {key: value for key, value in about_weights.items() if key in accepted}
    try:
        optimizer = rule([flat], lr=lr, **asked, **given)
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
    settings = _settings("schedule", name, SCHEDULES[name], options)
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


def make_adversary(
    network: MLP,
    vat: float,
    options: dict[str, Any],
    *,
    loss: str,
    dtype_of_products: torch.dtype | None = None,
) -> VirtualAdversary | None:
    """What adds the term of virtual adversarial training to the steps of a network; None for no such term.

    Args:
        network: Whose inputs are moved.
        vat: The weight λ of the term; 0 for none.
        options: Those of ``ADVERSARY``; None keeps the default there.
        loss: A key of ``LOSSES``.
        dtype_of_products: None for the parameter's.

    Raises:
        UserError: a value outside its range, an option without the term, or a loss whose outputs are no logits.
    """
    if not (vat >= 0 and math.isfinite(vat)):
        raise UserError(f"model.vat: got {vat}, must be zero or more and finite")
    given = {name: value for name, value in options.items() if value is not None}
    if vat == 0:
        for name, value in given.items():
            raise UserError(f"model.{name}: got {value}, but model.vat is 0, which leaves the term out")
        return None
    if loss != "cross_entropy":
        raise UserError(f"model.vat: got {vat}, but loss {loss} does not take it, since its outputs are no logits")
    settings = {name.removeprefix("vat_"): value for name, value in {**ADVERSARY, **given}.items()}
    try:
        return VirtualAdversary(network, weight=vat, dtype=dtype_of_products, **settings)
    except ValueError as error:
        raise UserError(f"model.vat_{error}") from error


def make_transforms(clip_norm: float | None, clip_value: float | None) -> tuple[GradientTransform, ...]:
    """What becomes of the gradient before the update, in order; None leaves a clipping out."""
    norm = () if clip_norm is None else (ClipNorm(clip_norm),)
    return norm if clip_value is None else (*norm, ClipValue(clip_value))


def make_constraints(l1: float, max_norm: float | None) -> tuple[Constraint, ...]:
    """What holds of the weights after the update: first the penalty's zeros, then the rows' lengths."""
    penalty = (SoftThreshold(l1),) if l1 else ()
    return penalty if max_norm is None else (*penalty, MaxNorm(max_norm))


def make_dropout(network: MLP, options: Mapping[str, Any], dtype: torch.dtype) -> Dropout | None:
    """What draws the masks of every step, in ``dtype``; None if ``dropout`` and ``input_dropout`` are 0."""
    p, input_p = options["dropout"], options["input_dropout"]
    if not (p or input_p):
        return None
    return Dropout(network.sizes, p, input_p, options["seed"], device=network.flat.device, dtype=dtype)


def make_averaging(name: str, options: dict[str, Any], *, total_steps: float) -> Averaging | None:
    """The share of the newest weights in their average as a function of the step; None for no average.

    Args:
        name: A key of ``AVERAGINGS``.
        options: The options of every averaging; None keeps the default in ``AVERAGINGS``.
        total_steps: Length of the whole training; infinite when the trainer has no end.

    Raises:
        UserError: an option that the averaging does not take, a value outside its range, or a mean over the last part
            of a training without end.
    """
    settings = _settings("averaging", name, AVERAGINGS[name], options)
    if name == "ema":
        if not 0 <= settings["ema_decay"] < 1:
            raise UserError(f"model.ema_decay: got {settings['ema_decay']}, must be in [0, 1)")
        return ema(settings["ema_decay"])
    if name == "swa":
        if not 0 <= settings["swa_start"] < 1:
            raise UserError(f"model.swa_start: got {settings['swa_start']}, must be in [0, 1)")
        if not math.isfinite(total_steps):
            raise UserError("model.averaging: swa needs an end: set trainer.max_epochs or trainer.max_steps")
        return swa(whole_part(settings["swa_start"], int(total_steps)))
    return None


def _settings(kind: str, name: str, defaults: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The defaults of the ``kind`` called ``name``, with those options in their place that are not None."""
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise UserError(f"model.{key}: got {value}, but {kind} {name} does not take it; it takes {known}")
    return {**defaults, **given}
