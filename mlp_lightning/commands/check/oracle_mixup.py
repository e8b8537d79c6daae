"""The oracle of mixup: the targets that a mixed minibatch has, entry by entry."""

import torch
from torch import Tensor

from mlp_lightning.data.batches import Batch


def mixed_targets(batch: Batch, n_classes: int) -> Tensor:
    """Classes ``(B,)``, or after mixup their probabilities ``(B, K)``, in float64."""
    if batch.partner_y is None:
        return batch.y
    rows = torch.arange(len(batch.y))
    probabilities = torch.zeros(len(rows), n_classes, dtype=torch.float64)
    probabilities[rows, batch.y] += batch.share
    probabilities[rows, batch.partner_y] += 1 - batch.share
    return probabilities


def total_weight(weights: Tensor, y: Tensor) -> Tensor:
    """What the mean over a minibatch divides by: the weight of all its targets, classes or probabilities."""
    return weights[y].sum() if y.ndim == 1 else (y.to(weights) * weights).sum()
