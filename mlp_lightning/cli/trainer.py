"""The command line's Trainer: each command that needs Lightning is a method."""

import sys
from typing import TYPE_CHECKING, Literal

from mlp_lightning.data.module import DataModule
from mlp_lightning.engines.choice import AUTO, ENGINES
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.trainer import Trainer

if TYPE_CHECKING:
    CheckedEngine = str
else:
    CheckedEngine = Literal["all", AUTO, *ENGINES]


class CommandTrainer(Trainer):
    """A Trainer that can also check and explain the steps that it would train."""

    def check(
        self,
        model: MLPModule,
        datamodule: DataModule,
        ckpt_path: str | None = None,
        engine: CheckedEngine | None = None,
    ) -> None:
        """Prove every hand-derived gradient and update against torch's, on this config and data.

        Args:
            model: the network and how it learns.
            datamodule: the data.
            ckpt_path: a checkpoint to take the weights from; null for initial ones.
            engine: what makes the steps that are proved, ``all`` for each engine that does not refuse; null for
                trainer.engine.
        """
        from mlp_lightning.commands.check.command import STEPS, check
        from mlp_lightning.training.setup import set_up

        setup = set_up(self, model, datamodule, ckpt_path)
        batches = [batch for batch, _ in zip(setup.batches, range(STEPS), strict=False)]
        if self.minibatches_per_update > 1:
            print(f"{self._accumulation}; here each is an update of its own\n")
        passed = check(
            model,
            batches,
            precision=self.precision,
            steps_per_epoch=setup.steps_per_epoch,
            total_steps=setup.total_steps,
            engine=engine or self.engine,
        )
        if not passed:
            sys.exit(1)

    def explain(
        self,
        model: MLPModule,
        datamodule: DataModule,
        sample: int = 0,
        html: str | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Walk one minibatch through forward, loss, backward and update, with formulas and numbers.

        Args:
            model: the network and how it learns.
            datamodule: the data.
            sample: the sample to show in detail, counted in the order of the first epoch.
            html: a file for the same as a page with pictures; null for none.
            ckpt_path: a checkpoint to take the weights from; null for initial ones.
        """
        from mlp_lightning.commands.explain.command import explain

        explain(self, model, datamodule, sample=sample, html=html, ckpt_path=ckpt_path)
        if self.minibatches_per_update > 1:
            print(f"\n{self._accumulation}; this is the walk of one that is an update of its own")

    @property
    def _accumulation(self) -> str:
        return f"trainer.accumulate_grad_batches: {self.minibatches_per_update} minibatches make an update in fit"
