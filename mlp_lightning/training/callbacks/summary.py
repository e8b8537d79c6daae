"""Lightning's table of a model's parameters, in which the weights count as trainable."""

from types import MethodType

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities.model_summary import ModelSummary as Summary

from mlp_lightning.training.module import MLPModule


class TrueSummary(Summary):
    """Lightning's, which takes what needs no autograd for frozen: here the network's one parameter trains."""

    @property
    def trainable_parameters(self) -> int:
        """Entries that an optimizer changes; the averages of weights are none of them."""
        assert isinstance(self._model, MLPModule)
        return self._model.network.flat.numel()


def count_truly(callback: ModelSummary) -> None:
    """Let a callback of any kind, Lightning's or rich's, print the counts of ``TrueSummary``."""

    def summary(self: ModelSummary, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Summary:
        kind = TrueSummary if isinstance(pl_module, MLPModule) else Summary
        return kind(pl_module, max_depth=self._max_depth)

    callback._summary = MethodType(summary, callback)  # type: ignore[method-assign]
