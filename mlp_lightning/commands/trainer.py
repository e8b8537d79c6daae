"""The Trainer with the commands that Lightning does not have."""

import sys

import lightning.pytorch as pl

from mlp_lightning.data.module import DataModule
from mlp_lightning.training.module import MLPModule


class Trainer(pl.Trainer):
    """Lightning's Trainer, which can also prove and explain a step of what it would train."""

    def check(self, model: MLPModule, datamodule: DataModule, ckpt_path: str | None = None) -> None:
        """Prove every hand-derived gradient and update against torch's, on this config and data.

        Args:
            model: the network and how it learns.
            datamodule: the data.
            ckpt_path: a checkpoint to take the weights from; null for initial ones.
        """
        from mlp_lightning.commands.check import STEPS, check
        from mlp_lightning.commands.stand import stand

        standing = stand(self, model, datamodule, ckpt_path)
        batches = [batch for batch, _ in zip(standing.batches, range(STEPS), strict=False)]
        passed = check(
            model,
            batches,
            precision=self.precision,
            steps_per_epoch=standing.steps_per_epoch,
            total_steps=standing.total_steps,
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
        from mlp_lightning.commands.explain import explain

        explain(self, model, datamodule, sample=sample, html=html, ckpt_path=ckpt_path)
