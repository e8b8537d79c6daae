"""What the network that a finished run tested predicts for the test set: the one place that rebuilds it from files."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.images.deform import Deform
from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.data.module import EVALUATION_BATCH_SIZE, DataModule
from mlp_lightning.data.sources.own import OWN
from mlp_lightning.data.sources.torchvision_sets import load_dataset
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import read_checkpoint, tested_file
from mlp_lightning.nn import MeanSquaredError
from mlp_lightning.training.evaluation import mean_output
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.trained_options import check_trained


class Predictions(NamedTuple):
    """For N test samples: ``log_probabilities (N, K)``, float64, and the true classes ``targets (N,)``."""

    log_probabilities: Tensor
    targets: Tensor

    @property
    def errors(self) -> int:
        """How many samples have another most probable class than the true one."""
        return int((self.log_probabilities.argmax(1) != self.targets).sum())


class Rebuilt(NamedTuple):
    """The module that a run tested, on the CPU in the run's own precision, and which data it was tested on.

    ``options`` are all those of the data, ``description`` is how they were read, None in older checkpoints.
    """

    module: MLPModule
    dataset: str
    root: str | None
    options: dict[str, Any]
    description: dict[str, Any] | None


def load_tested(run_folder: Path) -> Rebuilt:
    """Rebuild what a run tested.

    Args:
        run_folder: A run's ``version_N``, with ``config.yaml`` and ``checkpoints``.

    Raises:
        UserError: the checkpoint is missing or damaged, or does not fit this version of the trainer.
    """
    path = _tested_checkpoint(run_folder)
    try:
        checkpoint = read_checkpoint(str(path))
        check_trained(checkpoint, path)
    except UserError as error:
        # There it names an option that nobody gave here.
        raise UserError(str(error).removeprefix("--ckpt_path: ")) from error
    options = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
    state = checkpoint["state_dict"]
    try:
        module = MLPModule(**options)
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(state)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--ckpt_path: ')}") from error
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not fit this version of the trainer: {error}") from error
    # A bf16-true run has tested weights, samples and products in bf16.
    module.to(next(iter(state.values())).dtype).eval()
    data = checkpoint.get("datamodule_hyper_parameters", {})
    if not {"dataset", "root", "seed"} <= data.keys():
        raise UserError(f"{path} does not say which data it was tested on")
    return Rebuilt(module, data["dataset"], data["root"], data, checkpoint.get("data"))


def predict_test_set(run_folder: Path) -> Predictions:
    """``log p = logits − log Σ_k exp(logits_k)`` of what the run tested, for its whole test set.

    Also for a network trained with ``mse``: softmax keeps the order of its outputs, so its errors are counted alike.

    Raises:
        UserError: as ``load_tested``, or the data are not there or do not fit the network.
    """
    tested, data = _tested_with_data(run_folder)
    with torch.inference_mode():
        logits = torch.cat([tested.module(x) for x, _ in _minibatches(tested, data)])
    return Predictions(logits.double().log_softmax(1), data.test_y)


def predict_copies(run_folder: Path) -> Predictions | None:
    """``(1/C) Σ_c log p_c`` over the C deformed copies of each sample that the run's test made; None if it made none.

    For a network trained with ``mse`` log softmax of the copies' mean output, whose errors are those of the test.

    Raises:
        UserError: as ``predict_test_set``.
    """
    tested, data = _tested_with_data(run_folder)
    count = tested.options.get("test_deformations", 0)
    if not count:
        return None
    options = DeformOptions(**tested.options["deform"]).for_tests
    deform = Deform(options, data.image_shape, data.class_names, seed=tested.options["seed"])
    means = []
    with torch.inference_mode():
        for k, (x, y) in enumerate(_minibatches(tested, data)):
            copies = deform.copies(count, x, y, minibatch=k)
            means.append(mean_output((tested.module(copy).double() for copy in copies), tested.module.loss))
    mean = torch.cat(means)
    return Predictions(mean.log_softmax(1) if isinstance(tested.module.loss, MeanSquaredError) else mean, data.test_y)


def _tested_with_data(run_folder: Path) -> tuple[Rebuilt, Dataset]:
    tested = load_tested(run_folder)
    if tested.dataset in OWN and tested.description is not None:
        data = _own_data(tested.options, tested.description)
    else:
        data = _data(tested.dataset, tested.root)
    width, found = tested.module.network.sizes[0], data.test_x.shape[1]
    if found != width:
        raise UserError(f"the network in {run_folder} takes {width} inputs, but {tested.dataset} has {found} pixels")
    return tested, data


def _minibatches(tested: Rebuilt, data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Those of the test, so that rounding is the same: samples ``(B, D)`` and targets ``(B,)``."""
    for start in range(0, len(data.test_y), EVALUATION_BATCH_SIZE):
        rows = slice(start, start + EVALUATION_BATCH_SIZE)
        yield data.test_x[rows].to(tested.module.network.flat.dtype), data.test_y[rows]


def _tested_checkpoint(run_folder: Path) -> Path:
    """The file that the run's ``metrics.json`` names, or that its config did before there was such a line."""
    name = tested_file(run_folder)
    if name is None:
        config = yaml.safe_load((run_folder / "config.yaml").read_text(encoding="utf-8"))
        name = "best.ckpt" if config.get("test") == "best" else "last.ckpt"
    path = run_folder / "checkpoints" / name
    if not path.is_file():
        raise UserError(
            f"the run in {run_folder} has no checkpoints/{name}, which its predictions need: "
            "trainer.enable_checkpointing must not be false; delete the run's folder to repeat it"
        )
    return path


# The seeds of an experiment share their data, which take seconds to read.
@lru_cache(maxsize=1)
def _data(dataset: str, root: str | None) -> Dataset:
    return load_dataset(dataset, root)


def _own_data(options: dict[str, Any], description: dict[str, Any]) -> Dataset:
    datamodule = DataModule(**{name: value for name, value in options.items() if not name.startswith("_")})
    datamodule.read_as(description)
    datamodule.setup("test")
    return datamodule.data
