"""Which engine makes the steps of a training: the fastest one that does not refuse, or the one that was asked for."""

from typing import NamedTuple

from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.native.engine import NativeEngine
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.engines.reference import ReferenceEngine
from mlp_lightning.engines.torch.engine import TorchEngine
from mlp_lightning.engines.triton.engine import TritonEngine
from mlp_lightning.errors import UserError

# The fastest first.
ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (TritonEngine, NativeEngine, TorchEngine, ReferenceEngine)
}
AUTO = "auto"


class RefusedError(UserError):
    """An engine that was asked for cannot make the steps of a training.

    Args:
        wanted: the engine.
        reason: why not, in words.
    """

    def __init__(self, wanted: str, reason: str) -> None:
        super().__init__(f"trainer.engine: got {wanted}, which refuses: {reason}; {AUTO} takes one that can")
        self.reason = reason


class Chosen(NamedTuple):
    """An engine for a training, and why each faster one was refused."""

    engine: Engine
    refusals: dict[str, str]

    @property
    def line(self) -> str:
        """Both in one line, for a user to read."""
        why = self.engine.one_by_one
        how = "several steps in a call" if why is None else f"one step in a call ({why})"
        refusals = "".join(f"; {name} refuses: {reason}" for name, reason in self.refusals.items())
        return f"engine: {self.engine.name}, {how}{refusals}"


def choose(recipe: StepRecipe, wanted: str = AUTO) -> Chosen:
    """Make the engine of a training.

    Args:
        recipe: what its steps consist of.
        wanted: a key of ``ENGINES``, or ``auto`` for the first that does not refuse.

    Raises:
        RefusedError: the engine that was asked for refuses.
        UserError: there is none of that name.
    """
    if wanted == AUTO:
        refusals: dict[str, str] = {}
        for name, engine in ENGINES.items():
            reason = engine.refuses(recipe)
            if reason is None:
                return Chosen(engine(recipe), refusals)
            refusals[name] = reason
    if wanted not in ENGINES:
        raise UserError(f"trainer.engine: got {wanted}, must be {AUTO} or one of {', '.join(ENGINES)}")
    reason = ENGINES[wanted].refuses(recipe)
    if reason is not None:
        raise RefusedError(wanted, reason)
    return Chosen(ENGINES[wanted](recipe), {})
