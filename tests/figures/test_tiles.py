import numpy as np
import pytest
import torch
from torch.nn.functional import fold

from mlp_lightning.figures.tiles import tile


def test_worked_example():
    images = np.array([[[1, 2]], [[3, 4]], [[5, 6]]])
    expected = [
        [1, 2, 0, 3, 4, 0],
        [0, 0, 0, 0, 0, 0],
        [5, 6, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert tile(images, columns=2, gap=(1, 1), fill=0).tolist() == expected


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_without_gaps_it_is_fold(rows, columns):
    images = torch.rand(rows * columns, 5, 3, dtype=torch.float64)
    expected = fold(images.flatten(1).T, (rows * 5, columns * 3), (5, 3), stride=(5, 3))[0]
    np.testing.assert_array_equal(tile(images.numpy(), columns, (0, 0), 0.0), expected.numpy())


def test_colours_stay_with_their_pixels():
    images = np.random.default_rng(0).random((5, 4, 3, 3))
    sheet = tile(images, columns=2, gap=(2, 1), fill=1.0)
    for colour in range(3):
        np.testing.assert_array_equal(sheet[..., colour], tile(images[..., colour], 2, (2, 1), 1.0))
