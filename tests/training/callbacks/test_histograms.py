import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from mlp_lightning.training.callbacks.histograms import BINS, add_histograms

VALUES = {
    "normal": torch.randn(1001, generator=torch.Generator().manual_seed(0)),
    "matrix": torch.randn(20, 30, generator=torch.Generator().manual_seed(1)).t(),
    "skewed": torch.randn(500, generator=torch.Generator().manual_seed(2)).exp(),
    "two values": torch.tensor([0.0, 1.0, 1.0]),
}


def logged(tmp_path, values):
    writer = SummaryWriter(tmp_path)
    add_histograms(writer, {"h": values, "other": torch.rand(7)}, 5)
    writer.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    (event,) = events.Histograms("h")
    assert event.step == 5
    return event.histogram_value


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_counts_equal_numpys(tmp_path, values):
    histogram = logged(tmp_path, values)
    numbers = values.numpy().ravel()
    counts, edges = np.histogram(numbers, BINS)
    assert sum(histogram.bucket) == len(numbers)
    # An entry within rounding of an edge may fall on either side of it.
    assert np.abs(np.cumsum(histogram.bucket) - np.cumsum(counts)).max() <= 1
    assert histogram.bucket_limit == pytest.approx(edges[1:], abs=1e-5)
    assert (histogram.min, histogram.max) == (numbers.min(), numbers.max())
    assert histogram.num == len(numbers)
    assert histogram.sum == pytest.approx(numbers.sum(dtype=np.float64), rel=1e-4, abs=1e-3)
    assert histogram.sum_squares == pytest.approx(np.square(numbers, dtype=np.float64).sum(), rel=1e-4)


@pytest.mark.parametrize("constant", [0.0, 0.25, -3.0])
def test_equal_values_fall_into_one_bucket(tmp_path, constant):
    histogram = logged(tmp_path, torch.full((10,), constant))
    assert sorted(histogram.bucket)[-1] == 10
    assert histogram.sum == pytest.approx(10 * constant)


def test_values_stay_as_they_are(tmp_path):
    values = torch.ones(3, dtype=torch.float64)
    logged(tmp_path, values)
    assert values.dtype == torch.float64
    assert values.tolist() == [1.0, 1.0, 1.0]
