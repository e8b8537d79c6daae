"""Update rules, learning-rate schedules, gradient clipping and constraints on weights.

The network is one flat tensor, all weights first, then all biases. A rule sees tensors, their ``.grad`` and its own
state, never the network.
"""

from typing import Any, Protocol

from mlp_lightning.optim.adam import Adam, AdamW
from mlp_lightning.optim.adam_norm import AdamNorm
from mlp_lightning.optim.clipping import clip_norm_, clip_value_
from mlp_lightning.optim.l1 import soft_threshold_
from mlp_lightning.optim.lion import Lion
from mlp_lightning.optim.max_norm import max_norm_
from mlp_lightning.optim.muon import Muon
from mlp_lightning.optim.nadam import NAdam
from mlp_lightning.optim.rmsprop import RMSprop
from mlp_lightning.optim.schedules import Schedule, constant, cosine, one_cycle, step_decay, warmup
from mlp_lightning.optim.sgd import SGD
from mlp_lightning.optim.update_rule import UpdateRule


class RuleClass(Protocol):
    """A class of rules, called with tensors and options."""

    decouples_decay: bool

    def __call__(self, *args: Any, **options: Any) -> UpdateRule: ...


OPTIMIZERS: dict[str, RuleClass] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "lion": Lion,
    "muon": Muon,
    "rmsprop": RMSprop,
    "adam_norm": AdamNorm,
}

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamNorm",
    "AdamW",
    "Lion",
    "Muon",
    "NAdam",
    "RMSprop",
    "Schedule",
    "UpdateRule",
    "clip_norm_",
    "clip_value_",
    "constant",
    "cosine",
    "max_norm_",
    "one_cycle",
    "soft_threshold_",
    "step_decay",
    "warmup",
]
