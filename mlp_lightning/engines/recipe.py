"""A step's recipe: everything that one training step consists of, whichever engine makes it."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.engines.constraints import Constraint
from mlp_lightning.engines.readings import Readings
from mlp_lightning.engines.shard import Shard
from mlp_lightning.engines.transforms import GradientTransform
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.nn.losses import Loss, Reduction
from mlp_lightning.nn.mlp import MLP
from mlp_lightning.optim.update_rule import UpdateRule

# What happens after a step whose loss or gradient is not finite.
Nonfinite = Literal["stop", "skip", "ignore"]


class Hooks(Protocol):
    """What is called around the gradient of a step."""

    def before_backward(self, loss: Tensor, *, is_first: bool) -> None:
        """Between the forward pass of a minibatch and its gradient."""

    def after_backward(self) -> None:
        """After the gradient of a minibatch."""

    def before_update(self) -> None:
        """Before the transforms of the whole gradient."""

    def update(self) -> None:
        """Make the update."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that share each minibatch.

    Args:
        size: how many.
        shard: this process's shard of the parameter, which its rule updates; None for all of it.
        overlap: whether each layer's dW is summed over the processes while the layers before it are still computed.
    """

    size: int = 1
    shard: Shard | None = None
    overlap: bool = False


ALONE = Workers()


@dataclass(frozen=True, kw_only=True)
class StepRecipe:
    """What a training step consists of.

    Args:
        network: on its device.
        loss: with reduction ``"sum"``.
        rule: on ``network.flat``, or on this process's shard of it, with one group of options.
        reduction: ``"mean"`` or ``"sum"`` of the whole minibatch.
        transforms: of the whole gradient, in order, before the update.
        constraints: of the weights, in order, after the update.
        dropout: makes the masks of each step; None for no dropout.
        adversary: adds the term of virtual adversarial training; None for none.
        products: dtype of the matrix products; None for the parameter's.
        scaler: for float16, whose range small deltas would fall below: it scales the deltas, and skips a step whose
            gradient overflowed. None for no scaling.
        workers: the processes that share each minibatch.
        accumulate: minibatches whose gradients make one update, at least 1.
        nonfinite: a step whose loss or gradient is not finite raises NotFinite (``stop``), is skipped (``skip``), or is
            made like any other (``ignore``).
        seed: of the adversary's random directions.
        readings: where numbers wait that tell whether steps were finite; None for a queue of the engine's own.
        hooks: what is called around the gradient; None for nothing.
    """

    network: MLP
    loss: Loss
    rule: UpdateRule
    reduction: Reduction = "mean"
    transforms: tuple[GradientTransform, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    dropout: Dropout | None = None
    adversary: VirtualAdversary | None = None
    products: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None
    workers: Workers = ALONE
    accumulate: int = 1
    nonfinite: Nonfinite = "stop"
    seed: int = 0
    readings: Readings | None = None
    hooks: Hooks | None = None

    @property
    def needs_gradient(self) -> str | None:
        """What needs the whole gradient before the update, by its option; None where nothing does."""
        if self.transforms:
            return self.transforms[0].option
        if self.network.norms:
            return "norm"
        if self.workers.size > 1:
            return "devices"
        if self.accumulate > 1:
            return "accumulate_grad_batches"
        if self.nonfinite == "skip":
            return "nonfinite skip"
        if self.scaler is not None:
            return "precision 16-mixed"
        return None if self.hooks is None else "a hook of the gradient"

    @property
    def is_not_plain(self) -> str | None:
        """Why a step is more than forward pass, loss, backward pass and rule, in words; None where it is not."""
        option = self.needs_gradient
        if option is not None:
            return f"{option} needs the whole gradient"
        if self.constraints:
            return f"{self.constraints[0].option} changes the weights after the update"
        if self.dropout is not None:
            return "dropout draws masks for each step"
        return None if self.adversary is None else "vat makes passes of its own"
