"""Groups of steps: Lightning's loop runs once for many hand steps, and sees what it would see at every one of them."""

import itertools
import math
import time

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.utilities.combined_loader import _MaxSizeCycle

from mlp_lightning.data.batches import GROUPED_ROWS, Batch
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.callbacks.interruption import Interruption
from mlp_lightning.training.callbacks.progress_bar import GroupProgressBar
from mlp_lightning.training.listeners import STEP_HOOKS, differs, needs_every_step
from mlp_lightning.training.module import MLPModule

# Long enough that Lightning's share is small, and short enough for progress bars and signals.
SECONDS_PER_EXECUTION = 0.1
# Processes that count on each other must not look at clocks.
STEPS_PER_EXECUTION = 50
# Their own hooks do nothing at other steps than those that end a group.
AWAITING = (
    Callback,
    GroupProgressBar,
    Health,
    Interruption,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)


class GroupedEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the minibatches of an epoch, which makes most steps without Lightning's own share in them.

    A group is some steps made by the module alone, then one through Lightning, with its hooks, logs and progress.
    The last of a group is a step at which something may happen: the last of an epoch or of the training, one before a
    validation or a checkpoint. All counters are the same there as if Lightning had made every step; so is the state of
    training, since ``MLPModule.hand_step`` does the same in both. Signals and limits of time are looked at between
    groups. A step that is recorded may be any of the group, and Health measures it there.

    Args:
        trainer: whose ``fit_loop.epoch_loop`` this becomes.
        min_steps: as Lightning's.
        max_steps: as Lightning's.
        steps_per_execution: most minibatches in a group, at least 1. None for as many as take a tenth of a second, or
            50 where several processes share them, or 1 where a callback may do something at every step. It is 1 in any
            case where the module or another part of the training does something of its own in a step.
        minibatches_per_update: how many make a step, where an epoch does not end before. Lightning's own loop asks the
            trainer for it, which refuses to have more than one for a module that makes its steps itself.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        min_steps: int | None,
        max_steps: int,
        steps_per_execution: int | None,
        minibatches_per_update: int = 1,
    ) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.minibatches_per_update = minibatches_per_update
        self.steps_per_execution = steps_per_execution
        self._largest = 1.0
        self._seconds = self._until = math.inf
        self._periods: list[int] = []
        self._health: list[Health] = []

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Look once an epoch at what may happen in it."""
        super().on_run_start(data_fetcher)
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        self._seconds = math.inf
        if needs_every_step(self.trainer, self.trainer.lightning_module, MLPModule):
            self._largest = 1
        elif self.steps_per_execution is not None:
            self._largest = self.steps_per_execution
        elif any(wants_every_step(callback) for callback in callbacks):
            self._largest = 1
        elif self.trainer.world_size > 1:
            self._largest = STEPS_PER_EXECUTION
        else:
            self._largest, self._seconds = math.inf, SECONDS_PER_EXECUTION
        self._health = [callback for callback in callbacks if isinstance(callback, Health)]
        self._periods = [
            callback._every_n_train_steps
            for callback in callbacks
            if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps >= 1
        ]
        if any(isinstance(callback, LearningRateMonitor) for callback in callbacks):
            self._periods.append(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Make all steps of a group but one by hand, and the last through Lightning."""
        # After a restart Lightning may first have to finish a validation.
        if not self.restarting:
            self._until, left = time.perf_counter() + self._seconds, self._minibatches_to_event() - 1
            with torch.inference_mode():
                while left > 0 and self._has_time:
                    left -= self._advance_to_record(left, data_fetcher)
        super().advance(data_fetcher)

    @property
    def _has_time(self) -> bool:
        return time.perf_counter() < self._until

    def _accumulated_batches_reached(self) -> bool:
        return self.batch_progress.current.ready % self.minibatches_per_update == 0

    def _advance_to_record(self, most: int, data_fetcher: _DataFetcher) -> int:
        """Make steps on so many minibatches, while there is time, or up to the next record; returns on how many."""
        module, period = self.trainer.lightning_module, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        assert isinstance(module, MLPModule)
        size, recorded = self.minibatches_per_update, self.global_step // period * period + period
        count = (recorded - self.global_step) * size - self.batch_progress.current.ready % size
        if count > most:
            return self._make_steps(module, most, data_fetcher)
        health = [callback for callback in self._health if callback.measures(self.trainer, recorded)]
        made = self._make_steps(module, count - bool(health), data_fetcher)
        if made < count - bool(health):
            return made
        if health:
            batch, _, _ = next(data_fetcher)
            for callback in health:
                callback.before_step(self.trainer, module, batch)
            module.hand_step(batch, self.global_step)
            self._count(1, 1)
        module.record_steps()
        for callback in health:
            callback.after_step(self.trainer, module)
        return count

    def _make_steps(self, module: MLPModule, count: int, data_fetcher: _DataFetcher) -> int:
        first, size = self.global_step, self.minibatches_per_update
        made, updates, in_update = 0, 0, self.batch_progress.current.ready % size
        try:
            while made < count and module.makes_many and self._has_time:
                batches = self._alike(data_fetcher, count - made)
                for n in module.hand_steps(batches, first + updates):
                    made, updates = made + n, updates + n
            while made < count and self._has_time:
                batch, _, _ = next(data_fetcher)
                in_update += 1
                module.hand_step(batch, first + updates, updates=in_update == size, keep_gradient=False)
                made += 1
                if in_update == size:
                    updates, in_update = updates + 1, 0
        finally:
            # Whatever ended the group, the counters are those of the steps that were made.
            self._count(made, updates)
        return made

    def _count(self, minibatches: int, updates: int) -> None:
        self.batch_progress.increment_by(minibatches)
        self.manual_optimization.optim_step_progress.increment_by(updates)
        self._batches_that_stepped += updates

    @staticmethod
    def _alike(data_fetcher: _DataFetcher, most: int) -> list[Batch]:
        """The next minibatches, of as many samples each: no more than ``GROUPED_ROWS``, to keep memory small.

        The last minibatch of an epoch, which may be smaller, ends a group, and is none of those before.
        """
        first: Batch = next(data_fetcher)[0]
        count = min(most, -(-GROUPED_ROWS // max(1, first.size))) - 1
        loader = data_fetcher.combined_loader._iterator
        if data_fetcher.length is None or not isinstance(loader, _MaxSizeCycle) or len(loader.iterators) > 1:
            return [first, *(next(data_fetcher)[0] for _ in range(count))]
        # On its way through Lightning's iterators each would take a fifth of a small network's step on a GPU.
        batches = [first, *itertools.islice(loader.iterators[0], count)]
        loader._idx += len(batches) - 1
        data_fetcher.fetched += len(batches) - 1
        data_fetcher.done = data_fetcher.fetched >= data_fetcher.length
        return batches

    def _minibatches_to_event(self) -> int:
        """Minibatches up to and with the next at which something may happen, at least 1."""
        trainer, step, in_epoch = self.trainer, self.global_step, self.batch_progress.current.ready
        size, in_update = self.minibatches_per_update, self.batch_progress.current.ready % self.minibatches_per_update
        distances: list[float] = [self._largest, trainer.num_training_batches - in_epoch]
        # Of a step that is recorded, Lightning shows callbacks every minibatch.
        distances += [(period - step % period - 1) * size - in_update + 1 for period in self._periods]
        if self.max_steps != -1:
            distances.append((self.max_steps - step) * size - in_update)
        if self._should_check_val_epoch() and trainer.val_check_batch not in (None, float("inf")):
            # Without an epoch to count in, Lightning counts over all of them.
            counted = self.batch_progress.total.ready if trainer.check_val_every_n_epoch is None else in_epoch
            distances.append(trainer.val_check_batch - counted % trainer.val_check_batch)
        return max(1, int(min(distances)))


def wants_every_step(callback: Callback) -> bool:
    """Whether a callback has a hook, of its class or set on it, that may do something at every step."""
    return any(differs(callback, hook, AWAITING) for hook in STEP_HOOKS)
