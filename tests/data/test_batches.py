import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlp_lightning.data.batches import Batch, Batches
from mlp_lightning.data.splitting.splits import per_batch
from mlp_lightning.errors import UserError

sizes = {"n": st.integers(1, 60), "batch_size": st.integers(1, 70), "world_size": st.integers(1, 5)}


def samples(n: int, d: int = 3) -> tuple[Tensor, Tensor]:
    """Sample i is (i, i + ½, …) with target i, so that each can be told from the others."""
    y = torch.arange(n)
    return y.unsqueeze(1) + torch.arange(d) / 2, y


def over_ranks(n: int, batch_size: int, world_size: int, **options) -> list[tuple[Batch, ...]]:
    """Per step, the batches of all ranks."""
    loaders = [Batches(*samples(n), batch_size, rank=r, world_size=world_size, **options) for r in range(world_size)]
    return list(zip(*loaders, strict=True))


def order(loader: Batches, epoch: int = 0) -> list[int]:
    loader.set_epoch(epoch)
    return torch.cat([batch.y for batch in loader]).tolist()


@settings(deadline=None)
@given(**sizes, shuffle=st.booleans())
def test_every_sample_comes_once_in_balanced_shares(n: int, batch_size: int, world_size: int, shuffle: bool) -> None:
    steps = over_ranks(n, batch_size, world_size, shuffle=shuffle, seed=n)
    seen = []
    for batches in steps:
        shares = [len(batch.y) for batch in batches]
        assert max(shares) - min(shares) <= 1
        assert {batch.size for batch in batches} == {sum(shares)}
        assert all(batch.val_x.shape == (0, 3) and batch.val_y.shape == (0,) for batch in batches)
        for batch in batches:
            assert torch.equal(batch.x, samples(n)[0][batch.y])
            seen += batch.y.tolist()
    assert sorted(seen) == list(range(n))
    assert [batches[0].size for batches in steps] == [len(part) for part in torch.arange(n).split(batch_size)]


@settings(deadline=None)
@given(**sizes, halves=st.booleans())
def test_train_sizes_are_those_of_the_minibatches(n: int, batch_size: int, world_size: int, halves: bool) -> None:
    batches = Batches(*samples(n), batch_size, rank=world_size - 1, world_size=world_size, per_batch=halves)
    assert batches.train_sizes == {batch.size for batch in batches}


@settings(deadline=None)
@given(**sizes)
def test_order_does_not_depend_on_the_world_size(n: int, batch_size: int, world_size: int) -> None:
    one = Batches(*samples(n), batch_size, shuffle=True, seed=4)
    many = over_ranks(n, batch_size, world_size, shuffle=True, seed=4)
    for alone, shares in zip(one, many, strict=True):
        assert torch.equal(alone.x, torch.cat([share.x for share in shares]))
        assert torch.equal(alone.y, torch.cat([share.y for share in shares]))


@settings(deadline=None)
@given(**sizes, rows=st.integers(1, 100), first=st.integers(0, 59))
def test_how_many_are_gathered_at_once_does_not_show(n, batch_size, world_size, rows, first) -> None:
    first %= -(-n // batch_size)
    found = []
    for gathered in (1, rows):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mlp_lightning.data.batches.GATHERED_ROWS", gathered)
            loader = Batches(*samples(n), batch_size, shuffle=True, seed=4, rank=world_size - 1, world_size=world_size)
            loader.load_state_dict({"handed_out": first, "epoch": 0})
            found.append(list(loader))
    assert len(found[0]) == -(-n // batch_size) - first
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
        assert one.size == other.size


@settings(deadline=None)
@given(**sizes)
def test_per_batch_shares_both_parts(n: int, batch_size: int, world_size: int) -> None:
    train, validation = per_batch(n, batch_size)
    trained, validated = [], []
    for batches in over_ranks(n, batch_size, world_size, per_batch=True):
        assert {batch.size for batch in batches} == {sum(len(batch.y) for batch in batches)}
        for batch in batches:
            assert torch.equal(batch.x, samples(n)[0][batch.y])
            assert torch.equal(batch.val_x, samples(n)[0][batch.val_y])
            trained += batch.y.tolist()
            validated += batch.val_y.tolist()
        for shares in ([len(batch.y) for batch in batches], [len(batch.val_y) for batch in batches]):
            assert max(shares) - min(shares) <= 1
    assert trained == train.tolist()
    assert validated == validation.tolist()


@pytest.mark.parametrize(
    ("n", "batch_size", "lengths"),
    [
        pytest.param(6, 3, [3, 3], id="even"),
        pytest.param(7, 3, [3, 3, 1], id="ragged"),
        pytest.param(2, 5, [2], id="one short batch"),
        pytest.param(1, 1, [1], id="one sample"),
    ],
)
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_last_batch_is_kept(n: int, batch_size: int, lengths: list[int], shuffle: bool) -> None:
    loader = Batches(*samples(n), batch_size, shuffle=shuffle)
    assert [len(batch.x) for batch in loader] == [batch.size for batch in loader] == lengths
    assert len(loader) == len(lengths)


@pytest.mark.parametrize("split", [False, True], ids=["whole", "per batch"])
def test_batches_in_order_are_views(split: bool) -> None:
    x, y = samples(10)
    for index, batch in enumerate(Batches(x, y, 4, per_batch=split)):
        start = 4 * index
        assert batch.x.data_ptr() == x[start].data_ptr()
        assert batch.y.data_ptr() == y[start].data_ptr()
        if len(batch.val_y):
            assert batch.val_x.data_ptr() == x[start + batch.size].data_ptr()
        assert batch.x.is_contiguous()


def test_shuffled_batches_leave_the_samples_alone() -> None:
    x, y = samples(10)
    for batch in Batches(x, y, 4, shuffle=True):
        batch.x.zero_()
    assert torch.equal(x, samples(10)[0])


def test_order_follows_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): order(Batches(*samples(100), 7, shuffle=True, seed=seed), epoch)
        for seed in range(4)
        for epoch in range(4)
    }
    # All differ: (0, 1) and (1, 0), whose sums are equal, too.
    assert len({tuple(o) for o in orders.values()}) == 16
    assert all(sorted(o) == list(range(100)) for o in orders.values())
    assert order(Batches(*samples(100), 64, shuffle=True, seed=2), 3) == orders[2, 3]


def test_neighbouring_epochs_are_unrelated() -> None:
    loader = Batches(*samples(2000), 100, shuffle=True, seed=0)
    orders = torch.tensor([order(loader, epoch) for epoch in range(6)], dtype=torch.float64)
    correlation = torch.corrcoef(orders) - torch.eye(6)
    # Of independent orders it is about 1/√2000 = 0.022.
    assert correlation.abs().max() < 0.1


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**63, -1], ids=str)
def test_any_seed_is_taken(seed: int) -> None:
    assert sorted(order(Batches(*samples(20), 4, shuffle=True, seed=seed))) == list(range(20))


def test_one_iteration_repeats_the_other_until_the_epoch_changes() -> None:
    loader = Batches(*samples(30), 4, shuffle=True, seed=1)
    assert order(loader, 5) == order(loader, 5) != order(loader, 6)


def test_shuffling_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    order(Batches(*samples(30), 4, shuffle=True, seed=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_iterator_made_before_the_epoch_is_announced_follows_it() -> None:
    loader = Batches(*samples(30), 4, shuffle=True, seed=1)
    iterator = iter(loader)
    loader.sampler.set_epoch(3)
    assert torch.cat([batch.y for batch in iterator]).tolist() == order(loader, 3)
    assert loader.sampler is loader
    assert loader.batch_sampler is None


@settings(deadline=None)
@given(data=st.data(), **sizes, shuffle=st.booleans())
def test_resuming_continues_the_epoch(
    data: st.DataObject, n: int, batch_size: int, world_size: int, shuffle: bool
) -> None:
    options = {"shuffle": shuffle, "seed": 9, "rank": world_size - 1, "world_size": world_size}
    straight = Batches(*samples(n), batch_size, **options)
    straight.set_epoch(2)
    iterator = iter(straight)
    for _ in range(data.draw(st.integers(0, len(straight) - 1))):
        next(iterator)
    state = straight.state_dict()

    resumed = Batches(*samples(n), batch_size, **options)
    resumed.load_state_dict(state)
    resumed.set_epoch(2)
    assert resumed.state_dict() == state
    for expected, batch in zip(iterator, resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected[:4], batch[:4], strict=True))
        assert expected.size == batch.size
        assert straight.state_dict() == resumed.state_dict()
    assert len(list(resumed)) == len(resumed), "the next epoch is whole"


def test_state_within_and_at_the_end_of_an_epoch() -> None:
    loader = Batches(*samples(10), 4)
    states = [loader.state_dict()["handed_out"]]
    for _ in loader:
        states.append(loader.state_dict()["handed_out"])
    assert states == [0, 1, 2, 0]


def test_position_counts_in_its_own_epoch_only() -> None:
    # Lightning cuts an epoch short at limit_train_batches: a checkpoint at that end is followed by a whole next epoch.
    saved = Batches(*samples(10), 4, shuffle=True)
    saved.set_epoch(7)
    next(iter(saved))
    for epoch, skipped in ((7, 4), (8, 0)):
        resumed = Batches(*samples(10), 4, shuffle=True)
        resumed.load_state_dict(saved.state_dict())
        expected = order(Batches(*samples(10), 4, shuffle=True), epoch)[skipped:]
        assert order(resumed, epoch) == expected


@pytest.mark.parametrize("handed_out", [3, 900, -1])
def test_position_of_another_batch_size_is_refused(handed_out: int) -> None:
    loader = Batches(*samples(10), 4)
    with pytest.raises(UserError, match=rf"^data\.batch_size: got 4, that is 3 minibatches.* after {handed_out} of"):
        loader.load_state_dict({"handed_out": handed_out, "epoch": 0})
    assert len(list(loader)) == 3


@pytest.mark.parametrize(
    ("n", "n_targets", "batch_size", "options", "message"),
    [
        pytest.param(0, 0, 4, {}, "x and y .* got 0 and 0", id="no samples"),
        pytest.param(5, 4, 4, {}, "x and y .* got 5 and 4", id="a target missing"),
        pytest.param(5, 5, 0, {}, "batch_size must be at least 1, got 0", id="batch of none"),
        pytest.param(5, 5, -2, {}, "batch_size must be at least 1, got -2", id="negative batch"),
        pytest.param(5, 5, 4, {"rank": 2, "world_size": 2}, "rank .* got rank 2 and world_size 2", id="rank too large"),
        pytest.param(5, 5, 4, {"rank": -1}, "rank .* got rank -1", id="rank negative"),
        pytest.param(5, 5, 4, {"world_size": 0}, "world_size 0", id="no ranks"),
        pytest.param(5, 5, 4, {"per_batch": True, "shuffle": True}, "shuffle must be False with per_batch", id="both"),
    ],
)
def test_arguments_out_of_range(n: int, n_targets: int, batch_size: int, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(torch.zeros(n, 3), torch.zeros(n_targets, dtype=torch.int64), batch_size, **options)


@pytest.mark.gpu
def test_order_on_cuda_is_that_of_the_cpu() -> None:
    x, y = samples(100)
    on_gpu = Batches(x.cuda(), y.cuda(), 7, shuffle=True, seed=3)
    assert next(iter(on_gpu)).x.is_cuda
    assert order(on_gpu, 2) == order(Batches(x, y, 7, shuffle=True, seed=3), 2)
