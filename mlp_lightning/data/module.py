"""The LightningDataModule: a dataset split once, kept on the training device, handed out as minibatches."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from mlp_lightning.data.array.mapped import MappedRows, Rows
from mlp_lightning.data.batches import Batch, Batches
from mlp_lightning.data.classes import check_each_class_trains, check_training_classes
from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.images.deform import Deform
from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.data.images.mixup import Mixup
from mlp_lightning.data.length import length_of, limited
from mlp_lightning.data.notes import note
from mlp_lightning.data.sources.options import Channels, Missing, SourceOptions, source_options
from mlp_lightning.data.sources.own import OWN, Trained, load_own, trained_on
from mlp_lightning.data.sources.torchvision_sets import CIFAR, SOURCES, load_dataset
from mlp_lightning.data.splitting.kept_split import changes, check_enough_left, in_minibatches, others, record_of
from mlp_lightning.data.splitting.row_keys import row_keys
from mlp_lightning.data.splitting.split_record import TEST, TRAIN, VAL, Recognised, SplitRecord, recognise, split_record
from mlp_lightning.data.splitting.splits import holdout, per_batch, train_share
from mlp_lightning.data.tabular.columns import Unknown
from mlp_lightning.errors import UserError

EVALUATION_BATCH_SIZE = 2000

# The default of ``validation_size``.
MOST_HELD_OUT = 5000
SHARE_HELD_OUT = 0.1

# A choice is a row of its table.
if TYPE_CHECKING:
    DatasetName = str
else:
    DatasetName = Literal[*SOURCES, *CIFAR, *OWN]


class DataModule(pl.LightningDataModule):
    """Data: which set, how it is split, how it is cut into minibatches.

    Args:
        dataset: Name of the data set. mnist is packaged; others are read from ``root`` or downloaded into it;
            image_folder, csv and arrays are your own files in ``root``.
        root: Folder that holds, or gets, the set's files; null for the user's cache folder. For image_folder a folder
            of pictures for each class, or train, val and test that hold those; for csv a file with a header, or a
            folder with train.csv and perhaps val.csv and test.csv; for arrays a .npz file, or a folder of .npy files,
            with x and y, or x_train and y_train, and perhaps x_test, y_test, x_val and y_val.
        batch_size: Samples in a minibatch, over all devices together.
        validation: ``holdout`` sets ``validation_size`` training samples apart. ``per_batch`` is the notebook's split:
            of every minibatch the first 70 % train and the rest validate (it needs ``shuffle: false``). ``none`` trains
            on all samples, once the options are chosen.
        validation_size: For ``holdout``: a count (5000) or a fraction (0.1) of the training samples; null for a tenth,
            but at most 5000. Null also for files of your own that come with validation samples.
        shuffle: Whether each epoch takes the training samples in an order of its own, drawn from (seed, epoch).
        deform: Deformations of the training images; all off by default.
        mixup: Train on averages of two samples and of their targets, weighted λ and 1 − λ with λ ~ Beta(mixup, mixup);
            0 for none.
        test_deformations: In a test, how many deformed copies of each image to predict too; the mean of their
            predictions gives ``test/deformed_accuracy`` beside the plain one.
        test_path: For your own files: those of the test set, where they are not in ``root``.
        test_size: For your own files without a test set: a count or a fraction of the samples to set apart for it, of
            each class in proportion.
        test_seed: Seed of that choice, of its own, so that trainings with other seeds keep the same test set. With a
            checkpoint its split is kept, whatever these options are.
        image_size: For image_folder: [height, width] that all pictures are scaled to; null for their own, if it is one.
        channels: For image_folder: grey or rgb; null for rgb if any picture has colours.
        skip_unreadable: For image_folder: leave pictures out that cannot be read, and list them.
        label: For csv: the column of the class.
        categorical: For csv: columns of codes, which are categories though they look like numbers.
        ignore: For csv: columns to leave out.
        missing: For csv: refuse a missing value, or fill in the training part's mean, median or most_frequent one; a
            missing text gets the most frequent one with any of them. The text NA counts as missing.
        unknown: For csv: refuse a category that the training part has not, or take it as none of them (zero).
        memory_budget: For arrays: MB (as float32) above which .npy files stay on disk and minibatches are read ahead;
            null for a quarter of the machine's memory.
        seed: Seed of the split, of the shuffling and of the deformations; the command line sets it to
            ``seed_everything``.
    """

    def __init__(
        self,
        dataset: DatasetName = "mnist",
        root: str | None = None,
        batch_size: int = 64,
        validation: Literal["holdout", "per_batch", "none"] = "holdout",
        validation_size: int | float | None = None,
        shuffle: bool = True,
        deform: DeformOptions = DeformOptions(),  # noqa: B008 (it is frozen)
        mixup: float = 0.0,
        test_deformations: int = 0,
        test_path: str | None = None,
        test_size: int | float = 0.2,
        test_seed: int = 0,
        image_size: list[int] | None = None,
        channels: Channels | None = None,
        skip_unreadable: bool = False,
        label: str | int | float | None = None,
        categorical: list[str | int | float] = [],  # noqa: B006 (the command line shows it as the default)
        ignore: list[str | int | float] = [],  # noqa: B006
        missing: Missing = "error",
        unknown: Unknown = "error",
        memory_budget: float | None = None,
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
        size = validation_size
        if size is not None and size % 1 == 0:
            size = int(size)
        if size is not None and not (0 < size < 1 or (isinstance(size, int) and size >= 1)):
            raise UserError(
                f"data.validation_size: got {validation_size}, must be a count of at least 1 or a fraction in (0, 1)"
            )
        if not (mixup >= 0 and math.isfinite(mixup)):
            raise UserError(f"data.mixup: got {mixup}, must be at least 0 and finite")
        self.save_hyperparameters()
        self.source = source_options({option.name: self.hparams[option.name] for option in fields(SourceOptions)})
        self.source.check_dataset(dataset)
        # Plain values, which a checkpoint may hold; they come back as such.
        self.deform = DeformOptions(**deform) if isinstance(deform, dict) else deform
        self.hparams["deform"] = asdict(self.deform)
        if test_deformations < 0:
            raise UserError(f"data.test_deformations: got {test_deformations}, must be at least 0")
        if test_deformations and not self.deform.for_tests.moves_pixels:
            raise UserError(
                f"data.test_deformations: got {test_deformations}, but data.deform has nothing on that moves pixels"
            )
        self.dataset = dataset
        self.root = root
        self.batch_size = batch_size
        self.validation = validation
        self.validation_size = size
        self.shuffle = shuffle
        self.mixup = mixup
        self.test_deformations = test_deformations
        self.seed = seed
        self._data: Dataset | None = None
        self._trained: Trained | None = None
        # The samples of a checkpoint, found again, and what the next one is to keep of the split.
        self._found: Recognised | None = None
        self._record: SplitRecord | None = None
        self._compared = False
        # Whether validation samples came with the set, so that all training samples train.
        self._validates_apart = False

    def read_as(self, description: Mapping[str, Any]) -> None:
        """Read files of the user's own as those of a training were read: its ``Dataset.description()``.

        Categories, statistics, size of images and order of classes are then the training's, and nothing is learned.
        What trained, validated and tested does so again, whatever else the files hold now.
        """
        self._trained = trained_on(description)

    def resume(self, description: Mapping[str, Any], stage: str) -> None:
        """Read again by ``read_as`` what was read and split without the checkpoint that is now loaded."""
        if self.dataset not in OWN or self._trained is not None or "rows" not in description:
            return
        if self._record is not None and self._record.equals(split_record(description["rows"])):
            return
        self.read_as(description)
        self._data = self._record = None
        self._compared = False
        self.setup(stage)

    def description(self) -> dict[str, Any]:
        """What a checkpoint keeps: ``Dataset.description()`` and, of files of the user's own, how they were split."""
        record = self._record
        if record is None and self._trained is not None:
            record = self._trained.record
        return self.data.description() | ({} if record is None else {"rows": record.to_dict()})

    @property
    def data(self) -> Dataset:
        """The whole data set, as loaded."""
        if self._data is None:
            self._data = self._load()
        return self._data

    def _load(self, *, test_only: bool = False) -> Dataset:
        if self.dataset not in OWN:
            return load_dataset(self.dataset, self.root)
        data = load_own(self.dataset, self.source, self._trains, self._trained, test_only=test_only)
        if data.val_y is not None:
            self._check_own_validation(len(data.val_y))
        if self._trained is not None and self._trained.record is not None and not test_only:
            self._found = recognise(data, self._trained.record)
            return self._found.data
        if not test_only:
            counts = data.train_y[self._trains(len(data.train_y))].bincount(minlength=data.n_classes)
            check_training_classes(counts, data.class_names, f"data.root: {self.root}")
            # What a checkpoint is tested on need not hold all of its classes.
            if self._trained is None:
                check_each_class_trains(counts, data.class_names, f"data.root: {self.root}")
        return data

    def _check_own_validation(self, n: int) -> None:
        """Refuse options that would split the training samples though n validation samples came with the set."""
        self._validates_apart = True
        came = f"but {self.root} has {n} validation samples of its own"
        if self.validation == "per_batch":
            raise UserError(f"data.validation: got per_batch, {came}; must be holdout, which takes these, or none")
        if self.validation_size is not None:
            raise UserError(f"data.validation_size: got {self.validation_size}, {came}; null takes these")
        if self.validation == "none":
            note(f"data.validation is none: the {n} validation samples of {self.root} are not used")

    def setup(self, stage: str) -> None:
        """Split the training samples, whatever the stage, since all parts are small enough to stay at hand."""
        # A test of other files by a checkpoint needs nothing of the training set, which may be far away.
        if self._data is None and stage == "test" and self._trained is not None and self.source.test_path is not None:
            self._data = self._load(test_only=self.dataset in OWN)
        if self.dataset in OWN and not self._compared:
            self._compare_with_checkpoint(stage)
            self._compared = True
        if self.dataset in OWN and self._record is None and stage == "fit":
            self._keep_split()
        # A checkpoint's deformations need not fit the data set that it is tested on.
        if self.deform.is_on and (self.test_deformations or stage not in ("validate", "test", "predict")):
            self.deform.check_data(self.data.image_shape, self.data.class_names)
        n = len(self.data.train_y)
        trains, self._validation_indices = self._split(n)
        # In minibatches that both train and validate both parts are handed out.
        self._train_indices = torch.arange(n) if self.validation == "per_batch" else trains

    def _compare_with_checkpoint(self, stage: str) -> None:
        """Tell what has changed in the files since the checkpoint; raises UserError where too little is left."""
        data, found, place = self.data, self._found, f"data.root: {self.root}"
        if found is not None:
            validates = stage in ("fit", "validate") and self._splits
            tests = stage in ("fit", "test") and not found.has_test_files
            check_enough_left(found, stage, place, tests=tests, validates=validates)
            if line := changes(found, stage):
                note(f"{place} has changed since the checkpoint: {line}")
            if validates and not found.known[VAL]:
                note("data.validation: the checkpoint was trained on all samples, also on those that validate now")
            if stage == "fit" and found.known[VAL] and self._validates_apart and self.validation != "none":
                note(f"{place}: the {found.known[VAL]} samples that validated train from now on")
        elif self._trained is not None and len(data.train_y) and not (stage == "test" and data.test_rows is None):
            note(
                f"the checkpoint does not say which samples of {self.root} it was trained on: those that test and "
                "validate are drawn by their place there"
            )
        known = None if self._trained is None else self._trained.record
        if stage == "test" and known is not None and (found is None or found.has_test_files):
            self._tell_overlap(row_keys(data.test_x, data.test_y), known, "the checkpoint was trained on")

    def _keep_split(self) -> None:
        """Note for the checkpoints of this training which rows are for what."""
        if self._found is not None:
            place, n = f"data.root: {self.root}", len(self.data.train_y)
            if self.validation == "per_batch" and self._found.known[VAL]:
                self._found = in_minibatches(self._found, per_batch(n, self.batch_size)[1], place)
                self._data = self._found.data
            counts = self.data.train_y[self._trains(n)].bincount(minlength=self.data.n_classes)
            check_training_classes(counts, self.data.class_names, place)
        self._record = record_of(self.data, self._split(len(self.data.train_y))[1], self._found)
        tests = self._record.test if len(self._record.test) else self._record.of(TEST)
        self._tell_overlap(tests, self._record, "train")

    def _tell_overlap(self, test_keys: Tensor, record: SplitRecord, what: str) -> None:
        if count := int(torch.isin(test_keys, record.of(TRAIN)).sum()):
            name = "data.root" if self.source.test_path is None else "data.test_path"
            note(f"{name}: {count} of the {len(test_keys)} samples that test are among those that {what}")

    @property
    def _splits(self) -> bool:
        """Whether a share of the training samples validates."""
        return self.validation != "none" and not self._validates_apart

    def _split(self, n: int) -> tuple[Tensor, Tensor]:
        """Which of n samples train, and which validate."""
        if n == 0 or not self._splits:
            return torch.arange(n), torch.arange(0)
        if self._found is not None and self._found.known[VAL]:
            return others(self._found.validates, n), self._found.validates
        if self.validation == "per_batch":
            trains, validates = per_batch(n, self.batch_size)
            if len(validates) == 0:
                raise UserError(
                    f"data.root: {n} training samples are too few to validate per_batch, must be at least 4"
                )
            return trains, validates
        size = self.validation_size
        if size is None:
            size = min(MOST_HELD_OUT, max(1, round(SHARE_HELD_OUT * n)))
        return holdout(n, size, self.seed)

    def _trains(self, n: int) -> Tensor:
        return self._split(n)[0]

    @property
    def _own_validation(self) -> tuple[Rows, Tensor] | None:
        """The validation samples that came with the set, if they are to be used."""
        data = self.data
        if data.val_x is None or data.val_y is None or self.validation == "none":
            return None
        return data.val_x, data.val_y

    @property
    def part_counts(self) -> dict[str, Tensor]:
        """Samples of each class ``(K,)`` in the part that trains, the one that validates, and the test set."""
        data = self.data
        trains, validates = self._split(len(data.train_y))
        val_y = data.train_y[validates] if self._own_validation is None else self._own_validation[1]
        parts = {"train": data.train_y[trains], "val": val_y, "test": data.test_y}
        return {name: y.bincount(minlength=data.n_classes) for name, y in parts.items()}

    def train_dataloader(self) -> Batches:
        """Minibatches of the training samples (for ``per_batch`` together with their validation parts)."""
        assert self.trainer is not None
        x, y = self._on_device(self._train_indices)
        # Once, where Lightning would convert every minibatch that passes through it: most steps do not.
        convert = self.trainer.precision_plugin.convert_input
        x = x.to(dtype=convert(torch.empty(0)).dtype) if isinstance(x, MappedRows) else convert(x)
        return Batches(
            x,
            y,
            self.batch_size,
            # Else the few minibatches would be others in every epoch.
            shuffle=self.shuffle and not self.trainer.overfit_batches,  # type: ignore[attr-defined]
            seed=self.seed,
            per_batch=self.validation == "per_batch",
            deform=self.make_deform() if self.deform.is_on else None,
            mixup=Mixup(self.mixup, seed=self.seed, device=self._device) if self.mixup else None,
            **self._share(),
        )

    def make_deform(self) -> Deform:
        """What deforms the training images."""
        shape, names = self.data.image_shape, self.data.class_names
        return Deform(self.deform, shape, names, epochs=self._epochs(), seed=self.seed, device=self._device)

    def _epochs(self) -> float:
        """Epochs of the whole training."""
        assert self.trainer is not None
        minibatches = math.ceil(len(self._train_indices) / self.batch_size)
        return length_of(self.trainer, limited(minibatches, self.trainer.limit_train_batches)).epochs

    def val_dataloader(self) -> Batches:
        """Minibatches of the validation samples, in file order."""
        own = self._own_validation
        if own is None:
            return Batches(*self._on_device(self._validation_indices), EVALUATION_BATCH_SIZE, **self._share())
        return Batches(own[0].to(self._device), own[1].to(self._device), EVALUATION_BATCH_SIZE, **self._share())

    def test_dataloader(self) -> Batches:
        """Minibatches of the official test set, in file order."""
        x, y = self.data.test_x.to(self._device), self.data.test_y.to(self._device)
        return Batches(x, y, EVALUATION_BATCH_SIZE, **self._share())

    def test_copies(self, batch: Batch, batch_idx: int) -> Iterator[Tensor]:
        """The deformed copies of a minibatch of the test set, each ``(B, D)``, as in the training's last epochs."""
        count, options = self.test_deformations, self.deform.for_tests
        if count:
            deform = Deform(options, self.data.image_shape, self.data.class_names, seed=self.seed, device=self._device)
            yield from deform.copies(count, batch.x, batch.y, minibatch=batch_idx, first=batch.first, size=batch.size)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move: the samples are on the device already."""
        return batch

    @property
    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    def _on_device(self, indices: Tensor) -> tuple[Rows, Tensor]:
        x, y = self.data.train_x, self.data.train_y
        if len(indices) < len(y):
            x = x.subset(indices) if isinstance(x, MappedRows) else x.index_select(0, indices)
            y = y.index_select(0, indices)
        return x.to(self._device), y.to(self._device)

    def _share(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
