"""Options of Lightning's Trainer that this program cannot honour, refused before anything is loaded or written."""

import inspect
import os
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.accelerators import CUDAAccelerator

from mlp_lightning.errors import UserError
from mlp_lightning.training.callback_options import as_list, check_callbacks
from mlp_lightning.training.distributed.strategy import START_METHODS

NOT_ZERO = {
    "max_epochs": "trains nothing; the command test evaluates without training",
    "max_steps": "trains nothing; the command test evaluates without training",
    "limit_train_batches": "trains nothing; the command test evaluates without training",
    "val_check_interval": "validates never; use a count, a fraction of an epoch, or limit_val_batches 0",
}
# The last three are other names of the first two, and the default.
PRECISIONS = ("32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed", "32", "64", "None")
# A few more than there are processors, for trials of what more would do; each takes some hundred MB.
MOST_PROCESSES = max(8, os.cpu_count() or 1)
AT_LEAST_ONE = ("log_every_n_steps", "check_val_every_n_epoch", "min_epochs", "min_steps")


def check_trainer_options(options: Namespace) -> None:
    """Raise UserError for the first option that Lightning would misread or ignore."""
    if options.gradient_clip_val is not None:
        raise UserError(
            f"trainer.gradient_clip_val: got {options.gradient_clip_val}, which steps derived by hand do not see; "
            "use model.clip_norm or model.clip_value"
        )
    check_callbacks(as_list(options.callbacks))
    if options.barebones:
        raise UserError("trainer.barebones: got true, must be false: it forbids the log and the checkpoints of a run")
    if isinstance(options.strategy, str) and options.strategy not in ("auto", *START_METHODS):
        raise UserError(f"trainer.strategy: got {options.strategy}, must be auto or one of {', '.join(START_METHODS)}")
    has_gpu = options.accelerator == "auto" and CUDAAccelerator.is_available()
    on_processors = options.accelerator in ("auto", "cpu") and not has_gpu
    if on_processors and str(options.devices).isdecimal() and int(options.devices) > MOST_PROCESSES:
        raise UserError(
            f"trainer.devices: got {options.devices}, must be at most {MOST_PROCESSES} on {os.cpu_count()} processors"
        )
    if str(options.precision) not in PRECISIONS:
        raise UserError(f"trainer.precision: got {options.precision}, must be one of {', '.join(PRECISIONS[:-3])}")
    if str(options.precision) == "16-mixed" and on_processors:
        raise UserError("trainer.precision: got 16-mixed, which needs a GPU; use bf16-mixed on processors")
    for name, reason in NOT_ZERO.items():
        if options[name] == 0:
            raise UserError(f"trainer.{name}: got 0, which {reason}")
    for name in AT_LEAST_ONE:
        if options[name] is not None and options[name] < 1:
            raise UserError(f"trainer.{name}: got {options[name]}, must be at least 1")


def given_options(options: Namespace, defaults: dict[str, Any]) -> str:
    """The plain options that differ from their defaults, as ``name=value, …``."""
    usual = {name: parameter.default for name, parameter in inspect.signature(pl.Trainer).parameters.items()} | defaults
    given = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
    return ", ".join(f"{name}={value}" for name, value in given.items() if value != usual.get(name)) or "none"
