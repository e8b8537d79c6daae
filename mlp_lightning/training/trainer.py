"""The Trainer: steps in groups, by a chosen engine, with options that are refused in a line."""

import math
import re
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mlp_lightning.data.length import Share, length_of
from mlp_lightning.engines.choice import AUTO, ENGINES
from mlp_lightning.errors import UserError
from mlp_lightning.training.callback_options import check_callbacks, check_monitors
from mlp_lightning.training.callbacks.summary import count_truly
from mlp_lightning.training.groups import GroupedEpochLoop
from mlp_lightning.training.module import MLPModule

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[AUTO, *ENGINES]

# Options of Lightning that may be a share of minibatches.
SHARES = (
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
)


class Trainer(pl.Trainer):
    """Lightning's Trainer, which runs steps in groups.

    Args:
        accumulate_grad_batches: Minibatches whose gradients make one update, as if they were one minibatch; the last
            of an epoch may be fewer. Steps are updates, in max_steps, log_every_n_steps and the schedule.
        steps_per_execution: Most minibatches that train between two looks of Lightning; it never changes a result.
            Null for as many as take a tenth of a second (50 with several processes), or 1 where a callback may do
            something at every step.
        engine: What makes the training steps: ``auto`` for the fastest that can (the table before training names it),
            ``reference`` for the functions that the guide derives, ``torch``, ``native`` for C on a processor, or
            ``triton`` for CUDA.
        float32_matmul_precision: On CUDA, how exact products of float32 are: ``highest``, as float32, or ``high``, as
            TensorFloat-32, with three digits and in less time. Torch's setting of that name, for the whole process.
    """

    # Lightning need not print what an evaluation found.
    has_tables = True

    def __init__(
        self,
        *args: Any,
        accumulate_grad_batches: int = 1,
        steps_per_execution: int | None = None,
        engine: EngineName = "auto",
        float32_matmul_precision: Literal["highest", "high"] = "highest",
        **kwargs: Any,
    ) -> None:
        if accumulate_grad_batches < 1:
            raise UserError(f"trainer.accumulate_grad_batches: got {accumulate_grad_batches}, must be at least 1")
        if steps_per_execution is not None and steps_per_execution < 1:
            raise UserError(f"trainer.steps_per_execution: got {steps_per_execution}, must be at least 1")
        # Lightning's own number stays 1: it refuses others for a module that makes its steps itself.
        super().__init__(*args, **kwargs)
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelSummary):
                count_truly(callback)
        if isinstance(self.accelerator, CUDAAccelerator):
            torch.set_float32_matmul_precision(float32_matmul_precision)
        self.minibatches_per_update = accumulate_grad_batches
        self.engine = engine
        # An interval of time has no share.
        for name in SHARES:
            if isinstance(share := getattr(self, name, None), float):
                setattr(self, name, Share(share))
        loop = self.fit_loop.epoch_loop
        self.fit_loop.epoch_loop = GroupedEpochLoop(
            self, loop.min_steps, loop.max_steps, steps_per_execution, accumulate_grad_batches
        )

    def check_callbacks_for(self, model: pl.LightningModule) -> None:
        """Refuse callbacks that cannot do their work in a fit of this model; raises UserError."""
        check_callbacks(self.callbacks)  # type: ignore[attr-defined]
        # A module of the user's own may log metrics of its own.
        if type(model) is MLPModule:
            validates = self.limit_val_batches != 0
            metrics = [name for name in model.metrics if validates or not name.startswith("val/")]
            check_monitors(self.callbacks, metrics)  # type: ignore[attr-defined]

    def _run(self, model: pl.LightningModule, *args: Any, **kwargs: Any) -> Any:
        # Here for Lightning's Tuner too, whose callbacks come right before a fit.
        if self.state.fn == "fit":
            self.check_callbacks_for(model)
        try:
            return super()._run(model, *args, **kwargs)
        except MisconfigurationException as error:
            # Lightning blames the limits that it sets by this option.
            share = self.overfit_batches  # type: ignore[attr-defined]
            blamed = re.search(r"`(\w+)_dataloader` but \S+ \* (\d+) < 1", str(error))
            if share and blamed:
                raise UserError(
                    f"trainer.overfit_batches: got {share}, less than one of the {blamed[2]} {blamed[1]} minibatches; "
                    "must be a count or a larger share"
                ) from error
            raise

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Updates in the whole training."""
        # It loads the data, where their number is needed and not yet known.
        estimate = super().estimated_stepping_batches
        minibatches = self.num_training_batches
        return estimate if math.isinf(minibatches) else length_of(self, int(minibatches)).steps
