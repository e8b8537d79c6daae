"""What the network that a finished run tested predicts for the test set: the one place that rebuilds it from files."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from mlp_lightning.checkpoint_file import read_checkpoint
from mlp_lightning.data.mapped import Rows
from mlp_lightning.data.module import EVALUATION_BATCH_SIZE, DataModule
from mlp_lightning.data.own import OWN
from mlp_lightning.data.sources import load_dataset
from mlp_lightning.errors import UserError
from mlp_lightning.training.module import MLPModule


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
    except UserError as error:
        # There it names an option that nobody gave here.
        raise UserError(str(error).removeprefix("--ckpt_path: ")) from error
    options = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
    state = checkpoint["state_dict"]
    try:
        module = MLPModule(**options)
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not fit this version of the trainer: {error}") from error
    # A bf16-true run has tested weights, samples and products in bf16.
    module.to(next(iter(state.values())).dtype).eval()
    data = checkpoint["datamodule_hyper_parameters"]
    return Rebuilt(module, data["dataset"], data["root"], data, checkpoint.get("data"))


def predict_test_set(run_folder: Path) -> Predictions:
    """``log p = logits − log Σ_k exp(logits_k)`` of what the run tested, for its whole test set.

    Also for a network trained with ``mse``: softmax keeps the order of its outputs, so its errors are counted alike.

    Raises:
        UserError: as ``load_tested``, or the data are not there or do not fit the network.
    """
    module, dataset, root, options, description = load_tested(run_folder)
    if dataset in OWN and description is not None:
        x, targets = _own_test_set(options, description)
    else:
        x, targets = _test_set(dataset, root)
    width, dtype = module.network.sizes[0], module.network.flat.dtype
    if x.shape[1] != width:
        raise UserError(f"the network in {run_folder} takes {width} inputs, but {dataset} has {x.shape[1]} pixels")
    starts = range(0, len(x), EVALUATION_BATCH_SIZE)
    with torch.inference_mode():
        # In the minibatches of the test, so that rounding is the same.
        logits = torch.cat([module(x[start : start + EVALUATION_BATCH_SIZE].to(dtype)) for start in starts])
    return Predictions(logits.double().log_softmax(1), targets)


def _tested_checkpoint(run_folder: Path) -> Path:
    """``best.ckpt`` where the run's config says ``test: best``, otherwise ``last.ckpt``."""
    config = yaml.safe_load((run_folder / "config.yaml").read_text(encoding="utf-8"))
    name = "best" if config.get("test") == "best" else "last"
    path = run_folder / "checkpoints" / f"{name}.ckpt"
    if not path.is_file():
        raise UserError(
            f"the run in {run_folder} has no checkpoints/{name}.ckpt, which its predictions need: "
            "trainer.enable_checkpointing must not be false; delete the run's folder to repeat it"
        )
    return path


# The seeds of an experiment share their data, which take seconds to read.
@lru_cache(maxsize=1)
def _test_set(dataset: str, root: str | None) -> tuple[Rows, Tensor]:
    data = load_dataset(dataset, root)
    return data.test_x, data.test_y


def _own_test_set(options: dict[str, Any], description: dict[str, Any]) -> tuple[Rows, Tensor]:
    datamodule = DataModule(**{name: value for name, value in options.items() if not name.startswith("_")})
    datamodule.read_as(description)
    datamodule.setup("test")
    return datamodule.data.test_x, datamodule.data.test_y
