"""A trained model, as a checkpoint holds it: network, names of its classes, and how its input is made."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.data.described import described_preprocessing
from mlp_lightning.data.preprocessing import ImagePreprocessing, Preprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import find_checkpoint, read_checkpoint
from mlp_lightning.nn import MLP

# Rows that go through the network at once: their activations are all that is kept.
BATCH_SIZE = 1024
# Sets whose images were made as MNIST's, in a box of 20 × 20 pixels, centred by their centre of mass; those of digits.
DIGITS = ("mnist", "qmnist", "emnist_digits")
CENTRED = (*DIGITS, "emnist_balanced", "emnist_letters")


@dataclass(frozen=True, eq=False)
class Model:
    """A network that evaluates: D inputs, K classes.

    Args:
        network: its weights are those that were evaluated in training, so the averaged ones where they were averaged.
        class_names: K names.
        preprocessing: what makes a row of D numbers of a sample.
        centred: whether pictures are to be scaled and centred as MNIST's were.
        path: the checkpoint.
    """

    network: MLP
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    centred: bool
    path: Path

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width) for grey images, (height, width, 3) for colour, () for samples that are no images."""
        return self.preprocessing.image_shape if isinstance(self.preprocessing, ImagePreprocessing) else ()

    def probabilities(self, x: Tensor) -> Tensor:
        """softmax(logits) ``(B, K)`` of inputs ``(B, D)``, in the dtype of the weights, whatever B is.

        For a network trained with ``mse`` too: softmax keeps the order of its outputs.

        Raises:
            ValueError: x has another shape, or is not floating-point.
        """
        return torch.cat([torch.softmax(logits, 1) for logits, _ in self._passes(x)])

    def hidden(self, x: Tensor) -> list[Tensor]:
        """The activations ``(B, H)`` of every hidden layer, the first one first; raises as ``probabilities``."""
        passes = [activations for _, activations in self._passes(x)]
        return [torch.cat(parts) for parts in zip(*passes, strict=True)]

    def _passes(self, x: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Logits and hidden activations, a bounded number of rows at a time."""
        if x.ndim != 2 or x.shape[1] != self.network.sizes[0] or not x.is_floating_point():
            raise ValueError(f"x must be (B, {self.network.sizes[0]}), floating-point, got {tuple(x.shape)}, {x.dtype}")
        for rows in x.split(BATCH_SIZE):
            with torch.inference_mode():
                logits, cache = self.network(rows.to(self.network.flat))
            yield logits, [a for _, _, a in cache[:-1]]


def load(path: str | os.PathLike[str], *, option: str = "load") -> Model:
    """The model in a checkpoint of this trainer, on the CPU, in float32, or float64 if it was trained so.

    Args:
        path: The file; or the folder of a run, or ``best`` or ``last``, as ``find_checkpoint`` understands them.
        option: What an error calls it.

    Raises:
        UserError: no such file, or one that is damaged, carries code, comes from elsewhere or from an older version
            that did not say what its data were.
    """
    file = find_checkpoint(path, option=option)
    return model_of(read_checkpoint(file, option=option), file, option=option)


def model_of(checkpoint: dict[str, Any], file: Path, *, option: str = "load") -> Model:
    """The model in the content of a checkpoint; raises UserError as ``load``."""
    dataset = checkpoint.get("datamodule_hyper_parameters", {}).get("dataset")
    try:
        network = _network(checkpoint)
        class_names, preprocessing = _data(checkpoint, dataset)
        if preprocessing.n_features != network.sizes[0] or len(class_names) != network.sizes[-1]:
            raise UserError(
                f"its layers have the widths {list(network.sizes)}, "
                f"but its data {preprocessing.n_features} features and {len(class_names)} classes"
            )
    except UserError as error:
        raise UserError(f"{option}: {file}: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{option}: {file} does not fit this version of the trainer: {error}") from error
    image_shape = preprocessing.image_shape if isinstance(preprocessing, ImagePreprocessing) else ()
    centred = dataset in CENTRED and image_shape == (28, 28)
    return Model(network, class_names, preprocessing, centred, file)


def _network(checkpoint: dict[str, Any]) -> MLP:
    options, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    prefix = "network." if options.get("averaging", "none") == "none" else "averaged_network."
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise UserError(f"its {name} is not finite, so that every prediction would be none")
    dtypes = {weight.dtype for weight in weights.values()}
    # bfloat16 weights are exact in float32, and products in it lose less.
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    norm = checkpoint.get("norm", "none")
    network = MLP(checkpoint["sizes"], options["activation"], "zeros", norm=norm, dtype=dtype)
    network.load_state_dict(weights)
    return network.eval()


def _data(checkpoint: dict[str, Any], dataset: str | None) -> tuple[tuple[str, ...], Preprocessing]:
    if "data" in checkpoint:
        description = checkpoint["data"]
        return tuple(description["class_names"]), described_preprocessing(description["preprocessing"])
    # Checkpoints from before they said what their data were: what a set of digits is, is known.
    if dataset in DIGITS:
        return tuple(str(digit) for digit in range(10)), ImagePreprocessing(28, 28)
    raise UserError(
        "it was written by an older version, and holds neither the names of its classes nor how its inputs are made; "
        "train it again"
    )
