"""The callback that logs the distribution of each layer's weights and gradients after every epoch."""

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.run_folder import tensorboard

BINS = 64


class Histograms(pl.Callback):
    """Tags ``weights/layer k``, ``biases/layer k``, ``grad/layer k`` (of W) of the last step of the epoch.

    With ``model.norm`` also ``norm_weights/layer k`` and ``norm_biases/layer k``, its γ and β.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count and log."""
        writer = tensorboard(trainer)
        if writer is None:
            return
        assert isinstance(pl_module, MLPModule)
        for k, layer in enumerate(pl_module.network.layers):
            add_histogram(writer, f"weights/layer {k}", layer.weight, trainer.global_step)
            add_histogram(writer, f"biases/layer {k}", layer.bias, trainer.global_step)
            add_histogram(writer, f"grad/layer {k}", layer.dweight, trainer.global_step)
        for k, norm in enumerate(pl_module.network.norms):
            add_histogram(writer, f"norm_weights/layer {k}", norm.gamma, trainer.global_step)
            add_histogram(writer, f"norm_biases/layer {k}", norm.beta, trainer.global_step)


def add_histogram(writer: SummaryWriter, tag: str, values: Tensor, step: int) -> None:
    """Log a histogram counted where the tensor lives: ``SummaryWriter.add_histogram`` copies and sorts all of it."""
    values = values.float()
    low, high = (float(bound) for bound in torch.aminmax(values))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values, BINS, low, high)
    limits = torch.linspace(low, high, BINS + 1)[1:]
    writer.add_histogram_raw(
        tag,
        min=low,
        max=high,
        num=values.numel(),
        sum=float(values.sum()),
        sum_squares=float(values.square().sum()),
        bucket_limits=limits.tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
    )
