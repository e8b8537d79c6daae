"""Minibatches of a DataLoader of the user's own: what they tell of the network, and as the steps take them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.data.module import DataModule
from mlp_lightning.data.preprocessing import ArrayPreprocessing
from mlp_lightning.errors import UserError

WANTED = "must be (x, y) with samples (B, …) and their classes (B,)"


class Widths(NamedTuple):
    """D, and the samples of each class ``(K,)``."""

    n_features: int
    counts: Tensor


def own_data(trainer: pl.Trainer) -> DataModule | None:
    """The data module of this project that a trainer was given; None for any other data."""
    found = getattr(trainer, "datamodule", None)
    return found if isinstance(found, DataModule) else None


def widths_of(trainer: pl.Trainer) -> Widths:
    """What the minibatches that are about to come tell: D from the first, and K from all labels.

    The labels are read where the data set holds them, as ``TensorDataset`` and torchvision's do, else in a pass over
    the loader.

    Raises:
        UserError: no single loader, or minibatches that are not such pairs.
    """
    loops = {"fit": trainer.fit_loop, "validate": trainer.validate_loop, "test": trainer.test_loop}
    loop: Any = loops.get(str(trainer.state.fn and trainer.state.fn.value))
    loader: Any = None if loop is None else loop._data_source.dataloader()
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    if not hasattr(loader, "__iter__") or isinstance(loader, list | tuple | dict):
        raise UserError("dataloader: the widths of the network follow from one DataLoader, or from a checkpoint")
    # A sampler draws its seed from torch's generator.
    with torch.random.fork_rng(devices=[]):
        first = _as_pair(next(iter(loader), None))
        labels = _held_labels(loader)
        if labels is None:
            labels = torch.cat([_classes(y) for _, y in map(_as_pair, loader)])
    return Widths(first[0].flatten(1).shape[1], labels.bincount())


def _held_labels(loader: Any) -> Tensor | None:
    dataset = getattr(loader, "dataset", None)
    tensors = getattr(dataset, "tensors", None)
    held = tensors[1] if isinstance(tensors, Sequence) and len(tensors) == 2 else getattr(dataset, "targets", None)
    return None if held is None else _classes(torch.as_tensor(held))


def as_batch(batch: Any, like: Tensor, rank: int, world_size: int) -> Batch:
    """A minibatch as the steps take it.

    Args:
        batch: (x, y); or x alone, to predict.
        like: the parameter, for its device and dtype.
        rank: of this process, each of which has as many samples.
        world_size: how many there are.

    Raises:
        UserError: it is nothing of these.
    """
    x, y = (batch, torch.zeros(0, dtype=torch.int64)) if isinstance(batch, Tensor) else _as_pair(batch)
    x, y = x.flatten(1).to(like).contiguous(), _classes(y).to(like.device)
    n = len(x)
    return Batch(x, y, x[:0], y[:0], n * world_size, n * rank)


def described(sizes: Sequence[int]) -> dict[str, Any]:
    """What a checkpoint keeps of such samples: rows of D numbers as they are, and classes by their numbers."""
    return {
        "class_names": [str(k) for k in range(sizes[-1])],
        "image_shape": [],
        "preprocessing": ArrayPreprocessing(sizes[0]).to_dict(),
    }


def _as_pair(batch: Any) -> tuple[Tensor, Tensor]:
    parts = list(batch) if isinstance(batch, Iterable) and not isinstance(batch, Tensor | dict) else []
    if len(parts) == 1 and isinstance(parts[0], Tensor):
        parts = [*parts, torch.zeros(0, dtype=torch.int64)]
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts) or parts[0].ndim < 2:
        raise UserError(f"dataloader: got a minibatch of {_said(batch)}, {WANTED}")
    return parts[0], parts[1]


def _classes(y: Tensor) -> Tensor:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y.squeeze(1)
    if y.ndim != 1 or y.is_floating_point() or y.is_complex():
        raise UserError(f"dataloader: got targets {tuple(y.shape)} of {str(y.dtype).removeprefix('torch.')}, {WANTED}")
    return y.long()


def _said(batch: Any) -> str:
    parts: Iterator[str] = (type(part).__name__ for part in batch) if isinstance(batch, list | tuple) else iter(())
    return f"{type(batch).__name__}" + (f" ({', '.join(parts)})" if isinstance(batch, list | tuple) else "")
