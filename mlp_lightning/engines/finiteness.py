"""Steps that are not finite: found on the device, and either the end of the training or left out of it."""

import math
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.origin import Origin, origin_in_gradient, origin_in_step, origin_in_weights, origin_unknown
from mlp_lightning.engines.passes import Passes
from mlp_lightning.engines.ranks import gather_from_ranks
from mlp_lightning.engines.readings import Readings
from mlp_lightning.engines.shard import Shard
from mlp_lightning.errors import UserError
from mlp_lightning.nn.training_pass import TrainingPass

# Steps whose numbers may wait on a device before they are read whatever happens.
ROOM = 1000


class NotFinite(UserError):
    """A step of a training was not finite.

    Args:
        text: step, place and likely cause.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.checkpoint: Path | None = None

    def __str__(self) -> str:
        where = "there is none yet" if self.checkpoint is None else f"{self.checkpoint}"
        return f"{self.cause}; checkpoint to return to: {where}"

    @property
    def cause(self) -> str:
        """Step, place and likely cause."""
        return str(self.args[0])


class Finiteness:
    """Finds steps in whose loss or gradient is a NaN or an infinity, and weights that hold one.

    A step costs a look at the loss and at the gradients of biases, norms included. These are the sums of all deltas,
    and a delta that is not finite makes its sum so. What this passes over, a product of finite factors that overflows,
    makes the weights infinite, thus the next step's loss as a rule. Not where the weight is multiplied with a 0, which
    the passes in C skip, or leads into a unit that ReLU leaves at 0. Weights are summed before the first step, and
    where a record, a validation, an epoch or a checkpoint is due, so that none comes from bad ones; the error then
    names the last step after which they were finite. To skip steps the whole gradient is summed. A sum may overflow
    though its terms are finite: then they are looked at one by one.

    A processor reads each number at once, which costs nothing there. Another device would have to be waited for: the
    numbers of the steps wait on it, in a row that is read where weights are summed. Skipping decides at every step, and
    so waits for the device, as loss scaling does.

    All processes decide alike: the gradient that is looked at is the sum over all of them, into which each adds its
    loss times 0, which is 0 or NaN. So does a step that may be skipped, whose scaler looks at the gradient alone.

    Args:
        passes: of the steps, and of the network.
        nonfinite: as a recipe's: such a step raises NotFinite, is skipped, or nobody looks.
        world_size: number of processes that share each minibatch.
        accumulates: whether several minibatches make a step, whose gradient then tells of each of their losses.
        scaled: whether the gradient was scaled, and its overflow is to be expected: then only the loss is looked at.
        shard: this process's share of the gradient, where it has but a share.
        readings: where they wait to be read; None for a queue that is best for the device.
    """

    def __init__(
        self,
        passes: Passes,
        *,
        nonfinite: Literal["stop", "skip", "ignore"] = "stop",
        world_size: int = 1,
        accumulates: bool = False,
        scaled: bool = False,
        shard: Shard | None = None,
        readings: Readings | None = None,
    ) -> None:
        self.passes = passes
        self.network = passes.network
        self.skips = nonfinite == "skip"
        self._ignores = nonfinite == "ignore"
        self.scaled = scaled
        self.world_size = world_size
        self.shard = shard
        self._marks = not self._ignores and (world_size > 1 or self.skips or accumulates)
        self.skipped = False
        device = self.network.flat.device
        self.readings = Readings(waits=device.type != "cpu") if readings is None else readings
        with torch.inference_mode(False):
            self._row = torch.zeros(ROOM, dtype=self.network.flat.dtype, device=device)
        self._steps: list[int] = []
        self._noted = 0
        self._seen_finite = 0

    @property
    def waits(self) -> bool:
        """Whether numbers are read later."""
        return self.readings.waits

    def begin(self, step: int) -> None:
        """Look at the weights before the first step, ``step``; later looks tell since when they are bad."""
        if not self._ignores and not math.isfinite(float(self.network.flat.detach().sum())):
            self._raise_if(step, origin_in_weights(self.network, None))
        self._seen_finite = step

    def check_loss(self, step: int, loss_sum: float | Tensor, batch: Batch, training: TrainingPass, lr: float) -> None:
        """Before the backward pass, for a rule that changes the weights within it."""
        if not (self.waits or self._ignores or math.isfinite(float(loss_sum))):
            self._raise_if(step, origin_in_step(self.passes, batch, training, loss_sum, _before(step, lr)))

    def check_update(
        self, step: int, loss_sum: float | Tensor, lr: float, biases: float | Tensor | None = None
    ) -> None:
        """After such a rule: its sums of deltas are in the biases, whose sum is given where it is known."""
        if self._ignores:
            return
        if biases is None:
            biases = self._biases(self.network.flat.detach()).sum()
        total = biases + loss_sum
        if self.waits:
            self.note(step, torch.as_tensor(total).view(1), lr)
        elif not math.isfinite(float(total)):
            self._raise_if(step, origin_in_gradient(self.network, self.network.flat.detach(), _before(step, lr)))

    def mark(self, loss_sum: float | Tensor) -> None:
        """Make the gradient tell, on all processes, that this one's loss is not finite."""
        if self._marks:
            self.network.flat_grad[-1:].add_(loss_sum, alpha=0)

    def allows_part(self, step: int, loss_sum: float | Tensor, batch: Batch, training: TrainingPass, lr: float) -> bool:
        """Whether a minibatch of the step may change anything but the gradient, before the step's last; as ``allows``.

        Other processes are not asked before the last.
        """
        self.skipped = self.skips and not math.isfinite(float(loss_sum))
        if not self.skips and self.world_size == 1:
            self.check_loss(step, loss_sum, batch, training, lr)
        return not self.skipped

    def allows(
        self,
        step: int,
        loss_sum: float | Tensor,
        gradient: Tensor,
        batch: Batch,
        training: TrainingPass,
        lr: float,
        biases: float | None = None,
    ) -> bool:
        """Whether the step may change anything, before it does; raises NotFinite.

        Args:
            step: counted from 0.
            loss_sum: this process's.
            gradient: summed over all processes, or this one's share of that.
            batch: what the step trains on.
            training: its masks.
            lr: for the message.
            biases: the sum over the gradients of the biases, of this minibatch and process, where it is known.
        """
        self.skipped = False
        if self._ignores:
            return True
        total = self._total(loss_sum, gradient, biases)
        if self.skips:
            self.skipped = not (math.isfinite(float(total)) or self._is_finite(gradient))
        elif self.waits:
            self.note(step, torch.as_tensor(total).view(1), lr)
        elif not math.isfinite(float(total)):
            origin = origin_in_step(self.passes, batch, training, loss_sum, _before(step, lr))
            if origin is None and not self.scaled:
                origin = origin_in_gradient(self.network, self._own(self.network.flat_grad), _before(step, lr))
            self._raise_if(step, origin)
        return not self.skipped

    def note(self, step: int, totals: Tensor, lr: float) -> None:
        """Keep numbers that tell whether steps were finite, on the device; some time later they are read.

        Args:
            step: the first of them.
            totals: ``(n,)``, n ≤ ROOM, one for each.
            lr: for the message.
        """
        if self._ignores:
            return
        n = len(totals)
        if len(self._steps) + n > ROOM:
            self.look(step, lr)
        noted = len(self._steps)
        self._row[noted : noted + n] = totals
        self._steps += range(step, step + n)
        self._noted = step + n

    def look(self, steps: int, lr: float) -> None:
        """Read what waits, and look at the weights after so many steps; raises NotFinite."""
        self.ask(steps, lr)
        self.readings.read()

    def ask(self, steps: int, lr: float) -> None:
        """Do the same once ``readings`` are read."""
        if self._ignores:
            return
        noted, self._steps = self._steps, []
        flat = self.network.flat.detach()

        def judge(values: list[float]) -> None:
            bad = next((step for step, value in zip(noted, values, strict=False) if not math.isfinite(value)), None)
            if bad is not None:
                origin = origin_in_gradient(self.network, flat, _before(bad, lr)) or origin_unknown(_before(bad, lr))
                # Meanwhile there may have been further ones.
                self._raise_if(bad, origin.seen_after(max(steps, self._noted)))
            if not math.isfinite(values[-1]):
                self._raise_if(steps - 1, origin_in_weights(self.network, lr, self._seen_finite))
            self._seen_finite = steps

        total = flat.sum().view(1)
        self.readings.ask(torch.cat([self._row[: len(noted)], total]) if noted else total, judge)

    def _total(self, loss_sum: float | Tensor, gradient: Tensor, biases: float | None) -> float | Tensor:
        if self.scaled and not self.skips:
            total = torch.as_tensor(loss_sum, device=gradient.device).clone()
            if self.world_size > 1:
                dist.all_reduce(total)
            return total
        if biases is not None and not self._marks and self.shard is None:
            return biases + loss_sum
        whole = self.skips or self.shard is not None
        total = gradient.sum() if whole else self._biases(gradient).sum()
        if self.shard is not None:
            dist.all_reduce(total)
        return total if self._marks else total + loss_sum

    def _is_finite(self, gradient: Tensor) -> bool:
        bad = gradient.isfinite().logical_not_().sum()
        if self.shard is not None:
            dist.all_reduce(bad)
        return not int(bad)

    def _biases(self, flat: Tensor) -> Tensor:
        return flat[self.network.weight_numel :]

    def _own(self, flat: Tensor) -> Tensor:
        """A flat tensor without other processes' shares, which hold anything."""
        if self.shard is None:
            return flat
        own = torch.zeros_like(flat)
        self.shard.of(own).copy_(self.shard.of(flat))
        return own

    def _raise_if(self, step: int, own: Origin | None) -> None:
        """Raise NotFinite, on all processes alike, unless none of them finds anything that is not finite."""
        found = [origin for origin in gather_from_ranks(own) if origin is not None]
        if found:
            first = min(found)
            raise NotFinite(f"step {step + 1} is not finite: {first.what}; likely cause: {first.cause}")


def _before(step: int, lr: float) -> float | None:
    """The learning rate that may be to blame for what a step finds: none before the first."""
    return lr if step else None
