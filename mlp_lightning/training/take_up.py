"""What a checkpoint must hold before a module takes it up: weights of its shapes, and the state of its training."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_rules import checked
from mlp_lightning.files.rules import Wrong
from mlp_lightning.training.configured import ConfiguredModule
from mlp_lightning.training.options import make_optimizer

# Values in a checkpoint whose file is not known any more.
MOST = 10**8
# Lightning needs them to resume.
OF_TRAINING = ("loops", "optimizer_states", "lr_schedulers")


def check_content(checkpoint: dict[str, Any]) -> None:
    """Check, in place, what a trainer without this project's AtomicCheckpointIO has read by itself.

    Raises:
        UserError: it lacks what every checkpoint has, or a value is of another type or range.
    """
    missing = [name for name in ("sizes", "state_dict", "history", "window") if name not in checkpoint]
    if missing:
        raise UserError(f"--ckpt_path: the checkpoint has no {', '.join(missing)}")
    try:
        checkpoint.update(checked(checkpoint, MOST))
    except Wrong as error:
        raise UserError(f"--ckpt_path: the checkpoint is not of this trainer, {error}") from error


def check_weights(module: ConfiguredModule, checkpoint: Mapping[str, Any]) -> None:
    """Refuse weights that are missing, too many, of another shape or no floating-point numbers; raises UserError."""
    own, given = module.state_dict(), checkpoint["state_dict"]
    odd = [name for name in (*own, *given) if (name in own) != (name in given)]
    if odd and module.strict_loading:
        where = "lacks" if odd[0] in own else "has"
        raise UserError(f"--ckpt_path: the checkpoint {where} {odd[0]}, which does not fit this network")
    for name in own.keys() & given.keys():
        if own[name].shape != given[name].shape or not given[name].dtype.is_floating_point:
            raise UserError(
                f"--ckpt_path: the checkpoint has {name} of shape {list(given[name].shape)} and {given[name].dtype}, "
                f"must be {list(own[name].shape)} and floating-point"
            )


def check_training(module: ConfiguredModule, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to resume without the state of a training, or with that of another optimizer; raises UserError."""
    missing = [name for name in OF_TRAINING if name not in checkpoint]
    if missing:
        raise UserError(
            f"--ckpt_path: the checkpoint holds no state of a training to resume, it has no {', '.join(missing)}"
        )
    flat, options = module.network.flat, module.hparams
    shapes = [(fan_out, fan_in) for fan_in, fan_out in itertools.pairwise(module.network.sizes)]
    # Without memory of its own.
    rule = make_optimizer(
        torch.empty_like(flat, device="meta"), shapes, options["optimizer"], options["lr"], module.optimizer_options
    )
    try:
        (state,) = checkpoint["optimizer_states"]
        rule.load_state_dict(state)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"--ckpt_path: the checkpoint's state of the optimizer does not fit: {error}") from error
    gathered = checkpoint.get("gathered")
    if gathered and gathered["gradient"].shape != flat.shape:
        raise UserError(f"--ckpt_path: the checkpoint's gathered gradient must have the shape {list(flat.shape)}")
