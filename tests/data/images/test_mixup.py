"""Mixup on samples that tell which they are, and Batch's targets."""

import pytest
import torch

from mlp_lightning.data.batches import Batch, Batches
from mlp_lightning.data.images.mixup import Mixup

N, SIZE = 50, 16
ONEHOT = torch.eye(N)
DEVIATIONS = 5


def loader(rank=0, world_size=1, alpha=1.0, n=N, **options):
    mixup = Mixup(alpha, seed=3)
    return Batches(ONEHOT[:n], torch.arange(n), SIZE, seed=3, rank=rank, world_size=world_size, mixup=mixup, **options)


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": True}, {"per_batch": True}], ids=["in order", "shuffled", "per batch"]
)
def test_samples_and_targets_are_mixed_alike(options):
    for batch, plain in zip(loader(**options), Batches(ONEHOT, torch.arange(N), SIZE, seed=3, **options), strict=True):
        assert torch.equal(batch.y, plain.y)
        assert torch.equal(batch.val_x, plain.val_x)
        assert torch.equal(batch.partner_y.sort().values, plain.y.sort().values)
        # A sample is its own one-hot target here.
        torch.testing.assert_close(batch.x, batch.share * ONEHOT[batch.y] + (1 - batch.share) * ONEHOT[batch.partner_y])
        torch.testing.assert_close(batch.targets(N, torch.float32), batch.x)
        assert batch.size == len(batch.x)


@pytest.mark.parametrize("world_size", [2, 3, 20])
@pytest.mark.parametrize("options", [{"shuffle": True}, {"per_batch": True}], ids=["shuffled", "per batch"])
def test_any_number_of_processes_mixes_the_same(options, world_size):
    together = zip(*(loader(rank, world_size, **options) for rank in range(world_size)), strict=True)
    for batch, shares in zip(loader(**options), together, strict=True):
        for name in ("x", "y", "partner_y"):
            assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(batch, name)), name
        firsts = [share.first for share in shares]
        lengths = torch.tensor([len(share.x) for share in shares])
        assert firsts == (lengths.cumsum(0) - lengths).tolist()
        assert {(share.share, share.size) for share in shares} == {(batch.share, batch.size)}


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_has_a_beta_distribution_and_the_partners_no_order(alpha):
    mixup, n = Mixup(alpha, seed=0), 2000
    x, y = torch.zeros(8, 1), torch.arange(8)
    found = [mixup(x, y, slice(0, 8), step) for step in range(n)]
    shares = torch.tensor([share for *_, share in found])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < DEVIATIONS * (variance / n) ** 0.5
    assert shares.var() == pytest.approx(variance, rel=0.1)
    counts = torch.stack([torch.eye(8)[partners] for _, _, partners, _ in found]).sum(0)
    assert abs(counts - n / 8).max() < DEVIATIONS * (n * 7 / 64) ** 0.5


def test_the_next_epoch_mixes_anew_and_a_resumed_one_goes_on():
    straight = list(loader())
    later, resumed = loader(), loader()
    later.set_epoch(1)
    assert {batch.share for batch in later}.isdisjoint(batch.share for batch in straight)
    resumed.load_state_dict({"handed_out": 2, "epoch": 0})
    for ours, theirs in zip(resumed, straight[2:], strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert ours.share == theirs.share


def test_one_sample_is_its_own_partner():
    (batch,) = loader(n=1)
    assert torch.equal(batch.x, ONEHOT[:1])
    assert torch.equal(batch.partner_y, batch.y)


def test_targets_without_mixup_are_the_classes():
    x, y = torch.zeros(3, 2), torch.tensor([0, 2, 1])
    assert Batch(x, y, x, y, 3).targets(3, torch.float32) is y


def test_no_global_randomness():
    state = torch.get_rng_state()
    list(loader())
    assert torch.equal(torch.get_rng_state(), state)
