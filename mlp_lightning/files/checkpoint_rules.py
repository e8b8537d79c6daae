"""What a checkpoint of this trainer holds: the type and range of every value that is used."""

import itertools
import re
from typing import Any

import torch

from mlp_lightning.files.rules import (
    COUNT,
    FINITE,
    FLAG,
    NUMBER,
    PLAIN,
    POSITIVE,
    REAL,
    SCALAR,
    TENSOR,
    TEXT,
    ByClass,
    Choice,
    Each,
    Kind,
    ListOf,
    Maybe,
    OrNone,
    Others,
    Rule,
    Wrong,
    is_tensor,
    one_of,
    shown,
    take,
    whole,
)

WIDTH = whole(1, 2**31 - 1)
# Lightning rearranges the checkpoints of versions before 2.
VERSIONS = r"([2-9]|[1-9]\d)(\.\d{1,4}){1,3}((a|b|rc|\.?dev|\.post)\d{1,4})?"
VERSION = Kind(
    "a version from 2 on",
    lambda value: type(value) is str and bool(re.fullmatch(VERSIONS, value)),
)
# Lightning reads these of older versions of its own, and they name types and values that nothing here needs.
NEVER = ("hparams", "module_arguments", "hparams_type", "datamodule_hparams_type", "native_amp_scaling_state")

TOLD = Kind(
    "a kind and a layer",
    lambda value: type(value) in (list, tuple) and len(value) == 2 and type(value[0]) is str and type(value[1]) is int,
)
STATE = Kind("a tensor or a finite number", lambda value: FINITE.holds(value) or is_tensor(value))

# Lightning's counters.
TRACKED = {"ready": COUNT, "completed": COUNT, "started": Maybe(COUNT), "processed": Maybe(COUNT)}
PROGRESS = {"total": TRACKED, "current": TRACKED}
BATCHES = {**PROGRESS, "is_last_batch": FLAG}
LOOPS = {
    "fit_loop": {
        "state_dict": Maybe({"combined_loader": Maybe(ListOf({"handed_out": COUNT, "epoch": COUNT}))}),
        "epoch_loop.state_dict": Maybe({"_batches_that_stepped": Maybe(COUNT)}),
        "epoch_loop.batch_progress": Maybe(BATCHES),
        "epoch_loop.scheduler_progress": Maybe(PROGRESS),
        "epoch_loop.automatic_optimization.optim_progress": Maybe(
            {"optimizer": {"step": PROGRESS, "zero_grad": PROGRESS}}
        ),
        "epoch_loop.manual_optimization.optim_step_progress": Maybe(PROGRESS),
        "epoch_loop.val_loop.batch_progress": Maybe(BATCHES),
        "epoch_progress": Maybe(PROGRESS),
    },
    "validate_loop": {"batch_progress": Maybe(BATCHES)},
    "test_loop": {"batch_progress": Maybe(BATCHES)},
    "predict_loop": {"batch_progress": Maybe(PROGRESS)},
}

# ``training.own_files`` makes paths of the names of files in these.
MODEL_CHECKPOINT: dict[str, Any] = {
    "monitor": Maybe(OrNone(TEXT)),
    "best_model_score": OrNone(SCALAR),
    "best_model_path": TEXT,
    "current_score": Maybe(OrNone(SCALAR)),
    "dirpath": Maybe(OrNone(TEXT)),
    "best_k_models": Maybe(Each(SCALAR)),
    "kth_best_model_path": Maybe(TEXT),
    "kth_value": Maybe(OrNone(SCALAR)),
    "last_model_path": Maybe(TEXT),
}

# By the name of the callback's class. The state of others is theirs to check.
CALLBACKS: dict[str, Rule] = {
    "Health": {
        "symptoms": {"norms": ListOf(ListOf(NUMBER)), "largest": ListOf(NUMBER), "told": ListOf(TOLD)},
        "noise_scale": ListOf(NUMBER, 2),
        "warnings": ListOf(TEXT),
    },
    "Pictures": {"validations": COUNT},
    "Report": {"seconds": FINITE, "train_seconds": FINITE},
    "EarlyStopping": {
        "wait_count": COUNT,
        "stopped_epoch": COUNT,
        "best_score": SCALAR,
        "patience": COUNT,
        "stopping_reason": Maybe(whole(0, 4)),
        "stopping_reason_message": Maybe(OrNone(TEXT)),
    },
    "ModelCheckpoint": MODEL_CHECKPOINT,
    "Timer": {"time_elapsed": Maybe(Each(FINITE))},
}

# Kinds of columns, and types of other fields, are checked by ``data.described``.
COLUMN = Others(
    {
        "name": TEXT,
        "mean": Maybe(FINITE),
        "std": Maybe(POSITIVE),
        "categories": Maybe(ListOf(TEXT, once=True)),
        "fill": Maybe(
            Kind("text or a finite number", lambda value: value is None or TEXT.holds(value) or FINITE.holds(value))
        ),
    }
)
PREPROCESSING: dict[str, Rule] = {
    "image": Others({"height": WIDTH, "width": WIDTH, "channels": Maybe(whole(1, 3))}),
    "array": Others({"n_features": WIDTH}),
    "table": Others({"label": TEXT, "columns": ListOf(COLUMN)}),
}

# Names that no rule has are refused by the rule that is given them.
OPTIMIZER = Others(
    {
        "step": Maybe(COUNT),
        "momentum_product": Maybe(FINITE),
        **dict.fromkeys(("momentum_buffer", "first_moment", "second_moment", "largest_second_moment"), Maybe(REAL)),
    }
)
WINDOW = Each(ListOf(SCALAR, 2))
RULES: dict[str, Any] = {
    "state_dict": Maybe(Each(TENSOR)),
    "hyper_parameters": Maybe(Each(PLAIN)),
    "sizes": Maybe(ListOf(WIDTH)),
    "history": Maybe(Each(ListOf(ListOf(FINITE), 2))),
    "window": Maybe(WINDOW),
    "windows": Maybe(ListOf(WINDOW)),
    "epoch": Maybe(COUNT),
    "global_step": Maybe(COUNT),
    "pytorch-lightning_version": Maybe(VERSION),
    "loops": Maybe(LOOPS),
    "callbacks": Maybe(ByClass(CALLBACKS)),
    "optimizer_states": Maybe(ListOf({"state": Each(OPTIMIZER, int), "param_groups": ListOf(Each(PLAIN))})),
    "lr_schedulers": Maybe(ListOf(PLAIN)),
    "MixedPrecision": Maybe(
        {
            "scale": POSITIVE,
            "growth_factor": POSITIVE,
            "backoff_factor": POSITIVE,
            "growth_interval": COUNT,
            "_growth_tracker": COUNT,
        }
    ),
    "gathered": Maybe({"size": COUNT, "count": COUNT, "divisor": STATE, "gradient": REAL}),
    "hparams_name": Maybe(TEXT),
    "datamodule_hparams_name": Maybe(TEXT),
    "datamodule_hyper_parameters": Maybe(Each(PLAIN)),
    "events": Maybe(COUNT),
    "skipped_steps": Maybe(COUNT),
    "norm": Maybe(one_of("none", "batch", "layer")),
    "class_weights": Maybe(OrNone(ListOf(POSITIVE))),
    "results": Maybe(Each(FINITE)),
    "counts": Maybe(Each(TENSOR)),
    "data": Maybe(
        Others(
            {
                "class_names": ListOf(TEXT, once=True),
                "rows": Maybe(Each(TENSOR)),
                "image_shape": Maybe(ListOf(WIDTH)),
                "preprocessing": Choice("kind", PREPROCESSING),
            }
        )
    ),
}


def checked(checkpoint: dict[str, Any], size: int) -> dict[str, Any]:
    """A copy of a checkpoint in which every value that this trainer or Lightning uses has its type and range.

    What else it holds, for callbacks and modules of a user's own, is kept as it is.

    Args:
        checkpoint: what the file held.
        size: of the file in bytes.

    Raises:
        Wrong: a value that breaks its rule.
    """
    taken: dict[str, Any] = take(checkpoint, Others(RULES), "", size)
    for name in NEVER:
        taken.pop(name, None)
    _check_sizes(taken)
    for name, (steps, values) in taken.get("history", {}).items():
        if not len(steps) == len(values) > 0:
            raise Wrong(f"its history.{name} has {len(steps)} steps and {len(values)} values")
    return taken


def _check_sizes(taken: dict[str, Any]) -> None:
    """What counts layers and classes must agree with the widths, and the widths with the weights that are there."""
    sizes = taken.get("sizes")
    if sizes is None:
        return
    held = sum(tensor.numel() for tensor in taken.get("state_dict", {}).values())
    if len(sizes) < 2 or sum(fan_in * fan_out for fan_in, fan_out in itertools.pairwise(sizes)) > held:
        raise Wrong(f"its sizes {shown(str(list(sizes)))} ask for more weights than it holds")
    for name, counts in taken.get("counts", {}).items():
        if tuple(counts.shape) != (sizes[-1], sizes[-1]) or counts.dtype != torch.int64:
            raise Wrong(f"its counts.{name} is no table of {sizes[-1]} classes")
    symptoms = taken.get("callbacks", {}).get("Health", {}).get("symptoms")
    if symptoms and not len(symptoms["norms"]) == len(symptoms["largest"]) == len(sizes) - 1:
        raise Wrong("its callbacks.Health.symptoms are of another number of layers")
