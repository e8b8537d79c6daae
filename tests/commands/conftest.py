"""A model to draw for, and drawings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mlp_lightning.data.preprocessing import ImagePreprocessing, Preprocessing
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.model import Model


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """A model of random weights, biases and norms included."""

    def make(
        sizes: tuple[int, ...] = (784, 30, 12, 10),
        preprocessing: Preprocessing | None = None,
        *,
        centred: bool = True,
        dtype: torch.dtype = torch.float32,
        **options: str,
    ) -> Model:
        generator = torch.Generator().manual_seed(1)
        network = MLP(sizes, **options, generator=generator, dtype=dtype)  # type: ignore[arg-type]
        network.flat += 0.1 * torch.randn(network.flat.shape, generator=generator, dtype=dtype)
        names = tuple(str(k) for k in range(sizes[-1]))
        path = Path("lightning_logs/relu/version_0/checkpoints/best.ckpt")
        return Model(network, names, preprocessing or ImagePreprocessing(28, 28), centred, path)

    return make


@pytest.fixture
def drawing() -> np.ndarray:
    """A stroke from the upper left to the lower right, ink on paper, as the page sends it."""
    y, x = np.mgrid[:140, :140]
    near = (abs(x - y) < 8) & (x > 30) & (x < 100)
    return (255 * near).astype(np.uint8)
