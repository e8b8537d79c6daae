"""Groups of steps: Lightning's loop runs once for many hand steps, and sees what it would see at every one of them."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateMonitor, ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from mlp_lightning.data.loader import GATHERED_ROWS, Batch
from mlp_lightning.training.health import Health
from mlp_lightning.training.module import MLPModule

STEPS_PER_EXECUTION = 50
EVERY_STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
# Those that have such hooks, but do nothing in them at other steps than those that end a group.
AWAIT_EVENTS = (Checkpoint, ProgressBar, LearningRateMonitor, Timer, Health)


class GroupedEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the minibatches of an epoch, which makes most steps without Lightning's own share in them.

    A group is some steps made by the module alone, then one through Lightning, with its hooks, logs and progress.
    The last of a group is a step at which something may happen: the last of an epoch or of the training, one before a
    validation or a checkpoint, one that is logged. All counters are the same there as if Lightning had made every step;
    so is the state of training, since ``MLPModule.hand_step`` does the same in both. Signals and limits of time are
    looked at between groups.

    Args:
        trainer: whose ``fit_loop.epoch_loop`` this becomes.
        min_steps: as Lightning's.
        max_steps: as Lightning's.
        steps_per_execution: most minibatches in a group, at least 1. None for 50, or for 1 where a callback is present
            that may want to see every step.
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
        self._largest = 1
        self._periods: list[int] = []

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Look once an epoch at what may happen in it."""
        super().on_run_start(data_fetcher)
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        every_step = any(wants_every_step(callback) for callback in callbacks)
        self._largest = self.steps_per_execution or (1 if every_step else STEPS_PER_EXECUTION)
        self._periods = [self.trainer.log_every_n_steps]  # type: ignore[attr-defined]
        self._periods += [
            callback._every_n_train_steps
            for callback in callbacks
            if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps >= 1
        ]

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Make all steps of a group but one by hand, and the last through Lightning."""
        # After a restart Lightning may first have to finish a validation.
        if not self.restarting:
            self._make_steps(self._minibatches_to_event() - 1, data_fetcher)
        super().advance(data_fetcher)

    def _accumulated_batches_reached(self) -> bool:
        return self.batch_progress.current.ready % self.minibatches_per_update == 0

    def _make_steps(self, count: int, data_fetcher: _DataFetcher) -> None:
        module, first, size = self.trainer.lightning_module, self.global_step, self.minibatches_per_update
        made, updates, in_update = 0, 0, self.batch_progress.current.ready % size
        assert isinstance(module, MLPModule)
        try:
            with torch.inference_mode():
                while made < count and module.makes_many:
                    batches = self._alike(data_fetcher, count - made)
                    for n in module.hand_steps(batches, first + updates):
                        made, updates = made + n, updates + n
                while made < count:
                    batch, _, _ = next(data_fetcher)
                    in_update += 1
                    module.hand_step(batch, first + updates, updates=in_update == size, keep_gradient=False)
                    made += 1
                    if in_update == size:
                        updates, in_update = updates + 1, 0
        finally:
            # Whatever ended the group, the counters are those of the steps that were made.
            self.batch_progress.increment_by(made)
            self.manual_optimization.optim_step_progress.increment_by(updates)
            self._batches_that_stepped += updates

    @staticmethod
    def _alike(data_fetcher: _DataFetcher, most: int) -> list[Batch]:
        """The next minibatches, of as many samples each: no more than are gathered at a time, to keep memory small.

        The last minibatch of an epoch, which may be smaller, ends a group, and is none of those before.
        """
        batches: list[Batch] = []
        while len(batches) < most and sum(batch.size for batch in batches) < GATHERED_ROWS:
            batches.append(next(data_fetcher)[0])
        return batches

    def _minibatches_to_event(self) -> int:
        """Minibatches up to and with the next at which something may happen, at least 1."""
        trainer, step, in_epoch = self.trainer, self.global_step, self.batch_progress.current.ready
        size, in_update = self.minibatches_per_update, self.batch_progress.current.ready % self.minibatches_per_update
        distances = [self._largest, trainer.num_training_batches - in_epoch]
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
    """Whether a callback has a hook that Lightning calls at every step, and may do something in any call."""
    overrides = (getattr(type(callback), hook) is not getattr(Callback, hook) for hook in EVERY_STEP_HOOKS)
    return not isinstance(callback, AWAIT_EVENTS) and any(overrides)
