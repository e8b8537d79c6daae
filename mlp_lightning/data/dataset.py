"""What every source of data gives: samples, classes, and how a sample becomes a row."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mlp_lightning.data.array.mapped import Rows
from mlp_lightning.data.preprocessing import ArrayPreprocessing, ImagePreprocessing, Preprocessing


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: D features, K classes.

    ``train_x (N, D)`` and ``test_x`` are float32, contiguous, or rows of a file that is read as they are needed;
    ``train_y (N,)`` and ``test_y`` are int64 in 0 … K−1. ``image_shape`` is (height, width), for pictures in colour
    (height, width, 3), and () for samples that are no images; pixels are in [0, 1]. ``class_names[k]`` names class k.
    ``preprocessing`` makes such a row from a sample as the user has it; left out, it is that of images, or of arrays.
    ``val_x`` and ``val_y`` are validation samples that came with the set; None where a share of the training samples
    validates. ``test_rows`` are the test samples' rows ``(M,)``, ascending, in a file with all samples; None where they
    have files of their own.
    """

    train_x: Rows
    train_y: Tensor
    test_x: Rows
    test_y: Tensor
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing = None  # type: ignore[assignment]
    val_x: Rows | None = None
    val_y: Tensor | None = None
    test_rows: Tensor | None = None

    def __post_init__(self) -> None:
        if self.preprocessing is None:
            kind = ImagePreprocessing(*self.image_shape) if self.image_shape else ArrayPreprocessing(self.n_features)
            object.__setattr__(self, "preprocessing", kind)

    @property
    def n_features(self) -> int:
        """D, the width of the network's input."""
        return self.train_x.shape[1]

    @property
    def n_classes(self) -> int:
        """K, the width of the network's output."""
        return len(self.class_names)

    def description(self) -> dict[str, Any]:
        """What a checkpoint keeps, as plain values: names of the classes, shape of an image, preprocessing."""
        return {
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "preprocessing": self.preprocessing.to_dict(),
        }
