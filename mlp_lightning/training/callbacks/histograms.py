"""The callback that logs the distribution of each layer's weights and gradients after every epoch."""

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.run_folder import tensorboard

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
        tensors: dict[str, Tensor] = {}
        for k, layer in enumerate(pl_module.network.layers):
            tensors |= {f"weights/layer {k}": layer.weight, f"biases/layer {k}": layer.bias}
            tensors[f"grad/layer {k}"] = layer.dweight
        for k, norm in enumerate(pl_module.network.norms):
            tensors |= {f"norm_weights/layer {k}": norm.gamma, f"norm_biases/layer {k}": norm.beta}
        add_histograms(writer, tensors, trainer.global_step)


def add_histograms(writer: SummaryWriter, tensors: dict[str, Tensor], step: int) -> None:
    """Log histograms by tag, counted where the tensors live, which is read twice, however many they are.

    ``SummaryWriter.add_histogram`` copies and sorts all of each.
    """
    values = {tag: tensor.float() for tag, tensor in tensors.items()}
    bounds = torch.stack([torch.stack(torch.aminmax(value)) for value in values.values()]).tolist()
    edges = [(low, high) if low < high else (low - 0.5, high + 0.5) for low, high in bounds]
    counted = [
        torch.cat([torch.histc(value, BINS, *ends), torch.stack([value.sum(), value.square().sum()])])
        for value, ends in zip(values.values(), edges, strict=True)
    ]
    read = zip(values.items(), bounds, edges, torch.stack(counted).tolist(), strict=True)
    for (tag, value), (low, high), ends, (*counts, total, squares) in read:
        writer.add_histogram_raw(
            tag,
            min=low,
            max=high,
            num=value.numel(),
            sum=total,
            sum_squares=squares,
            bucket_limits=torch.linspace(*ends, BINS + 1)[1:].tolist(),
            bucket_counts=counts,
            global_step=step,
        )
