"""Data: where samples come from, which of them validate, and how they are handed out as minibatches."""

from mlp_lightning.data.batches import Batch, Batches
from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.sources.packaged import unpack_mnist
from mlp_lightning.data.sources.torchvision_sets import load_dataset
from mlp_lightning.data.splitting.splits import holdout, per_batch, train_share

__all__ = ["Batch", "Batches", "Dataset", "holdout", "load_dataset", "per_batch", "train_share", "unpack_mnist"]
