"""Sets of the user's own: which function reads which, and what a checkpoint tells it."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.described import described_preprocessing
from mlp_lightning.data.preprocessing import Preprocessing
from mlp_lightning.data.sources.options import OWN, SourceOptions
from mlp_lightning.data.splitting.split_record import SplitRecord, split_record
from mlp_lightning.data.splitting.splits import stratified
from mlp_lightning.errors import UserError

# Indices of the samples that train, of N that are not in the test set.
Split = Callable[[int], Tensor]


class Trained(NamedTuple):
    """What a checkpoint knows of the data that it was trained on."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    preprocessing: Preprocessing
    # None of an older version.
    record: SplitRecord | None = None


def trained_on(description: Mapping[str, Any]) -> Trained:
    """From ``Dataset.description()``; raises UserError for what is none."""
    try:
        return Trained(
            tuple(description["class_names"]),
            tuple(description["image_shape"]),
            described_preprocessing(description["preprocessing"]),
            split_record(description["rows"]) if "rows" in description else None,
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"--ckpt_path: the checkpoint does not say how its data were read ({error})") from error


def set_apart(y: Tensor, options: SourceOptions, trained: Trained | None) -> tuple[Tensor, Tensor]:
    """Which samples of one file train, and which test; where a checkpoint knows them, all train until it is asked.

    Args:
        y: classes ``(N,)``.
        options: with ``test_size`` and ``test_seed``.
        trained: what a checkpoint knows.

    Returns:
        Training and test indices as ``stratified``.
    """
    if trained is not None and trained.record is not None:
        return torch.arange(len(y)), torch.arange(0)
    return stratified(y, options.test_size, options.test_seed)


def load_own(
    name: str, options: SourceOptions, split: Split, trained: Trained | None = None, *, test_only: bool = False
) -> Dataset:
    """Read a set of the user's own.

    Args:
        name: A key of ``OWN``.
        options: where it is and how to read it.
        split: of the samples that are no test samples, tells those that train; the others validate.
        trained: what to read it by, in place of what its training part would teach.
        test_only: whether to leave the training samples out, of which there are then none; with ``test_path``.

    Raises:
        UserError: the files are not there, or hold something that cannot be trained on.
    """
    source = OWN[name]
    return getattr(import_module(source.module), source.function)(options, split, trained, test_only)
