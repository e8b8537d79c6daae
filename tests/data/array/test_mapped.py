import pickle

import numpy as np
import pytest
import torch

from mlp_lightning.data.array.mapped import MappedRows, as_features
from mlp_lightning.data.batches import Batches
from mlp_lightning.data.images.deform import Deform
from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.data.images.mixup import Mixup

N, SHAPE, NAMES = 103, (3, 4), ("a", "b", "c")


@pytest.fixture(params=["uint8", "float32", "float64", "int16"])
def saved(request, tmp_path):
    """An array in a file, and the features that it stands for, in memory."""
    array = np.random.default_rng(0).integers(0, 200, (N, *SHAPE)).astype(request.param)
    np.save(tmp_path / "x.npy", array)
    features = array.reshape(N, -1).astype("f4")
    return tmp_path / "x.npy", torch.from_numpy(features / np.float32(255) if request.param == "uint8" else features)


def test_rows_are_those_of_the_array(saved):
    path, x = saved
    rows = MappedRows(path, 1e9)
    index = torch.tensor([5, 101, 0, 5, 77])
    assert (len(rows), rows.shape) == (N, (N, 12))
    for ours, expected in ((rows[index], x[index]), (rows[3:9], x[3:9]), (rows[:0], x[:0]), (rows[:], x)):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, expected)
    part = rows.subset(torch.tensor([9, 4, 100])).to(dtype=torch.bfloat16)
    assert torch.equal(part[:], x[[9, 4, 100]].bfloat16())
    assert part.shape == (3, 12)
    assert torch.equal(as_features_of(path), x)


def as_features_of(path):
    return torch.from_numpy(as_features(np.load(path)))


def test_a_copy_for_another_process_holds_no_samples(saved):
    path, x = saved
    rows = MappedRows(path, 1e9, rows=torch.arange(20))
    written = pickle.dumps(rows)
    assert len(written) < 3000
    assert torch.equal(pickle.loads(written)[:], x[:20])


def whole(batches):
    return [[part.clone() for part in batch[:4]] + list(batch[4:6]) for batch in batches]


def assert_same(ours, expected):
    assert len(ours) == len(expected)
    for left, right in zip(ours, expected, strict=True):
        assert left[4:] == right[4:]
        for a, b in zip(left[:4], right[:4], strict=True):
            assert torch.equal(a, b)


DEFORM = DeformOptions(rotation=20, noise=0.1)
ROWS = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "per batch": {"per_batch": True},
    "share of three": {"shuffle": True, "rank": 1, "world_size": 3},
    "per batch, share of two": {"per_batch": True, "rank": 1, "world_size": 2},
    "mixed, share of two": {"shuffle": True, "mixup": Mixup(0.5), "rank": 0, "world_size": 2},
    "deformed, per batch": {"per_batch": True, "deform": Deform(DEFORM, SHAPE, NAMES)},
}


@pytest.mark.parametrize("options", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("window", [1, 30, 1000])
def test_minibatches_are_those_in_memory(saved, options, window):
    path, x = saved
    y = torch.arange(N) % 3
    # A window has a quarter of the budget, a float32 has 4 bytes.
    mapped = MappedRows(path, 4 * window * 12 * 4)
    assert mapped.window == window
    ours, expected = (Batches(rows, y, 10, seed=3, **options) for rows in (mapped, x))
    for epoch in (0, 1):
        for batches in (ours, expected):
            batches.set_epoch(epoch)
        assert_same(whole(ours), whole(expected))


@pytest.mark.parametrize("after", [1, 4, 10])
def test_it_goes_on_within_an_epoch(saved, after):
    path, x = saved
    y = torch.arange(N)
    straight = whole(Batches(x, y, 10, shuffle=True))
    left = Batches(MappedRows(path, 30 * 12 * 16), y, 10, shuffle=True)
    broken_off = iter(left)
    for _ in range(after):
        next(broken_off)
    state = left.state_dict()
    broken_off.close()
    resumed = Batches(MappedRows(path, 30 * 12 * 16), y, 10, shuffle=True)
    resumed.load_state_dict(state)
    assert_same(whole(resumed), straight[after:])
