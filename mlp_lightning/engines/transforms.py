"""What becomes of the whole gradient before the update, one small class each; a recipe has them in order."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from mlp_lightning.engines.shard import Shard
from mlp_lightning.optim.clipping import clip_norm_, clip_value_


class GradientTransform(Protocol):
    """A change of the gradient, in place."""

    # As the option is called, to say what a fast path cannot do.
    option: ClassVar[str]

    def __call__(self, gradient: Tensor, shard: Shard | None) -> None:
        """Transform the gradient ``(P,)``, or this process's shard of it."""


@dataclass(frozen=True)
class ClipNorm:
    """Scale the gradient to a Euclidean norm of at most ``max_norm``."""

    option: ClassVar[str] = "clip_norm"
    max_norm: float

    def __call__(self, gradient: Tensor, shard: Shard | None) -> None:
        """g ← g · min(1, max_norm / ‖g‖)."""
        clip_norm_(gradient, self.max_norm, None if shard is None else shard.norm(gradient))


@dataclass(frozen=True)
class ClipValue:
    """Clip every entry of the gradient to [−limit, limit]."""

    option: ClassVar[str] = "clip_value"
    limit: float

    def __call__(self, gradient: Tensor, shard: Shard | None) -> None:
        """g_i ← min(max(g_i, −limit), limit)."""
        clip_value_(gradient, self.limit)
