"""The LightningDataModule: a dataset split once, kept on the training device, handed out as minibatches."""

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from mlp_lightning.data.loader import Batches
from mlp_lightning.data.sources import Dataset, load_dataset
from mlp_lightning.data.splits import holdout, per_batch, train_share
from mlp_lightning.errors import UserError

EVALUATION_BATCH_SIZE = 2000

DatasetName = Literal[
    "mnist", "fashion_mnist", "kmnist", "qmnist", "emnist_balanced", "emnist_digits", "emnist_letters"
]


class DataModule(pl.LightningDataModule):
    """Data: which set, how it is split, how it is cut into minibatches.

    Args:
        dataset: Name of the data set. mnist is packaged; the others are read from ``root`` or downloaded into it.
        root: Folder that holds, or gets, ``<Set>/raw``; null for the user's cache folder.
        batch_size: Samples in a minibatch, over all devices together.
        validation: ``holdout`` sets ``validation_size`` training samples apart. ``per_batch`` is the notebook's split:
            of every minibatch the first 70 % train and the rest validate (it needs ``shuffle: false``).
        validation_size: For ``holdout``: a count (5000) or a fraction (0.1) of the training samples.
        shuffle: Whether each epoch takes the training samples in an order of its own, drawn from (seed, epoch).
        seed: Seed of the split and of the shuffling; the command line sets it to ``seed_everything``.
    """

    def __init__(
        self,
        dataset: DatasetName = "mnist",
        root: str | None = None,
        batch_size: int = 64,
        validation: Literal["holdout", "per_batch"] = "holdout",
        validation_size: int | float = 5000,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size: got {batch_size}, must be at least 1")
        if validation == "per_batch" and shuffle:
            raise UserError(
                "data.shuffle: got true, must be false with data.validation per_batch, "
                "whose validation samples would train in later epochs"
            )
        if validation == "per_batch" and train_share(batch_size) == batch_size:
            raise UserError(
                f"data.batch_size: got {batch_size}, but data.validation per_batch needs at least 4, "
                "or no sample is left to validate"
            )
        # The command line reads 5000 as 5000.0: from 1 on a whole number is a count.
        size = int(validation_size) if validation_size % 1 == 0 else validation_size
        if not (0 < size < 1 or (isinstance(size, int) and size >= 1)):
            raise UserError(
                f"data.validation_size: got {validation_size}, must be a count of at least 1 or a fraction in (0, 1)"
            )
        self.save_hyperparameters()
        self.dataset = dataset
        self.root = root
        self.batch_size = batch_size
        self.validation = validation
        self.validation_size = size
        self.shuffle = shuffle
        self.seed = seed
        self._data: Dataset | None = None

    @property
    def data(self) -> Dataset:
        """The whole data set, as loaded."""
        if self._data is None:
            self._data = load_dataset(self.dataset, self.root)
        return self._data

    def setup(self, stage: str) -> None:
        """Split the training samples; ``stage`` does not matter, since all parts are small enough to stay at hand."""
        n = len(self.data.train_y)
        if self.validation == "per_batch":
            _, self._validation_indices = per_batch(n, self.batch_size)
            self._train_indices = torch.arange(n)
            if len(self._validation_indices) == 0:
                raise UserError(
                    f"data.root: {n} training samples are too few to validate per_batch, must be at least 4"
                )
        else:
            self._train_indices, self._validation_indices = holdout(n, self.validation_size, self.seed)

    def train_dataloader(self) -> Batches:
        """Minibatches of the training samples (for ``per_batch`` together with their validation parts)."""
        assert self.trainer is not None
        x, y = self._on_device(self._train_indices)
        # Once, where Lightning would convert every minibatch that passes through it: most steps do not.
        x = self.trainer.precision_plugin.convert_input(x)
        split = self.validation == "per_batch"
        return Batches(x, y, self.batch_size, shuffle=self.shuffle, seed=self.seed, per_batch=split, **self._share())

    def val_dataloader(self) -> Batches:
        """Minibatches of the validation samples, in file order."""
        return Batches(*self._on_device(self._validation_indices), EVALUATION_BATCH_SIZE, **self._share())

    def test_dataloader(self) -> Batches:
        """Minibatches of the official test set, in file order."""
        x, y = self.data.test_x.to(self._device), self.data.test_y.to(self._device)
        return Batches(x, y, EVALUATION_BATCH_SIZE, **self._share())

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move: the samples are on the device already."""
        return batch

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    def _on_device(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.data.train_x, self.data.train_y
        if len(indices) < len(y):
            x, y = x.index_select(0, indices), y.index_select(0, indices)
        return x.to(self._device), y.to(self._device)

    def _share(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
