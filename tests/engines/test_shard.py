"""Shards of the optimizer: the steps without them, a share of the memory, and checkpoints that know no ranks."""

from types import SimpleNamespace

import pytest
import torch

from mlp_lightning.engines import shard
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
ADAM = {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.01, "decay_biases": False}
SHARDED = {**ADAM, "shard_optimizer": True}
DATA = {"batch_size": 23}
EXACT = {"precision": "64-true", "max_epochs": 4}


@pytest.fixture
def run(fit, tmp_path):
    """A training, alone or as one of a group of processes; returns its parts and its last checkpoint."""

    def train(model, n_processes=1, **trainer):
        strategy = "ddp" if n_processes > 1 else "auto"
        kind = "sharded" if "shard_optimizer" in model else "overlapped" if "overlap_reduction" in model else "whole"
        goes_on = "ckpt_path" in trainer
        settings = {"devices": n_processes, "strategy": strategy, "log_every_n_steps": 4, **EXACT, **trainer}
        # Named by what it holds: processes of a group must agree, and this one must not meet what they wrote.
        folder = tmp_path / f"{n_processes} processes, {kind}, {goes_on=}, {settings['max_epochs']} epochs"
        callbacks = checkpoint_callbacks()
        parts = fit(model, DATA, default_root_dir=folder, callbacks=callbacks, enable_checkpointing=True, **settings)
        return parts, parts.checkpoints / "last.ckpt"

    return train


@pytest.mark.parametrize(
    ("hidden", "has_reduce_scatter"),
    [([8, 6], True), ([7, 5], True), ([7, 5], False)],
    ids=["even", "uneven", "without reduce-scatter"],
)
def test_two_shards_step_bitwise_as_two_whole_optimizers(run, in_processes, monkeypatch, hidden, has_reduce_scatter):
    if not has_reduce_scatter:
        monkeypatch.setattr(shard, "has_reduce_scatter", lambda device: False)

    def work(rank):
        plain, sharded = (run({**model, "hidden": hidden}, 2)[0] for model in (ADAM, SHARDED))
        assert torch.equal(sharded.module.network.flat, plain.module.network.flat)
        # A gradient that is kept is that of all processes, whole.
        assert torch.equal(sharded.module.network.flat_grad, plain.module.network.flat_grad)
        (optimizer,) = sharded.trainer.optimizers
        (state,) = optimizer.state.values()
        overlapped = run({**ADAM, "hidden": hidden, "overlap_reduction": True}, 2)[0]
        assert torch.equal(overlapped.module.network.flat, plain.module.network.flat)
        return [value.numel() for value in state.values() if isinstance(value, torch.Tensor)], plain.module.network.flat

    (first, flat), (second, _) = in_processes(2, work)
    numel = len(flat)
    assert numel % 2 == (hidden == [7, 5])
    assert (first, second) == ([numel // 2] * 2, [numel - numel // 2] * 2)


def test_a_checkpoint_of_two_shards_goes_on_in_any_number(run, in_processes):
    straight, _ = run(ADAM)
    saved = in_processes(2, lambda rank: str(run(SHARDED, 2, max_epochs=2)[1]))[0]
    _, path = run(ADAM, max_epochs=2)
    # Apart from roundings the file is the one of a single whole optimizer.
    states = [torch.load(file, weights_only=True)["optimizer_states"][0] for file in (saved, path)]
    torch.testing.assert_close(states[0], states[1], rtol=1e-12, atol=1e-12)

    def resumed(model, n_processes):
        parts, _ = run(model, n_processes, ckpt_path=saved)
        return parts.trainer.global_step, parts.module.network.flat.detach()

    results = {"one": resumed(SHARDED, 1), "one, plain": resumed(ADAM, 1)}
    assert len(results["one"][1]) % 3, "three shares are uneven"
    for name, model, n in (("three", SHARDED, 3), ("three, plain", ADAM, 3), ("two", SHARDED, 2)):
        first, *others = in_processes(n, lambda rank, model=model, n=n: resumed(model, n))
        assert all(torch.equal(first[1], other[1]) for other in others), name
        results[name] = first
    for name, (steps, flat) in results.items():
        assert steps == 4 * 4, name
        torch.testing.assert_close(
            flat, straight.module.network.flat.detach(), rtol=1e-12, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize(
    ("before", "n_before", "after", "n_after"),
    [(SHARDED, 4, ADAM, 2), (ADAM, 3, SHARDED, 1), (ADAM, 3, SHARDED, 2), (ADAM, 1, SHARDED, 4)],
    ids=["4 shards to 2", "3 to 1", "3 to 2 shards", "1 to 4 shards"],
)
def test_a_checkpoint_knows_no_ranks(run, in_processes, before, n_before, after, n_after):
    def on(n, model, **trainer):
        def work(rank):
            parts, path = run(model, n, **trainer)
            return str(path), parts.module.network.flat.detach()

        return [work(0)] if n == 1 else in_processes(n, work)

    saved = on(n_before, before, max_epochs=2)[0][0]
    (_, straight), *_ = on(1, ADAM)
    for _, flat in on(n_after, after, ckpt_path=saved):
        torch.testing.assert_close(flat, straight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["muon", "adam_norm"])
def test_rules_that_couple_entries_are_refused(optimizer):
    message = (
        rf"^model\.shard_optimizer: got true, but {optimizer} needs the whole gradient in one place; "
        "it goes with sgd, adam, adamw, nadam, .*rmsprop$"
    )
    with pytest.raises(UserError, match=message):
        MLPModule(optimizer=optimizer, shard_optimizer=True)


def test_sums_of_shares_and_of_layers_are_not_had_at_once():
    with pytest.raises(UserError, match=r"^model\.overlap_reduction: got true, but with model\.shard_optimizer"):
        MLPModule(overlap_reduction=True, shard_optimizer=True)


def test_a_scaled_gradient_is_refused():
    module = MLPModule(**SHARDED)
    module.train_from(MLP([3, 2]))
    # On processors Lightning makes bf16-mixed of 16-mixed, so no real trainer has a scaler here.
    module._trainer = SimpleNamespace(world_size=2, precision_plugin=SimpleNamespace(scaler=object()))
    with pytest.raises(UserError, match=r"^model\.shard_optimizer: got true, but trainer\.precision 16-mixed"):
        module.configure_optimizers()


def test_one_process_has_no_shards(run):
    parts, _ = run(SHARDED)
    assert parts.module.shard is None
    assert parts.trainer.optimizers[0].param_groups[0]["params"] == [parts.module.network.flat]


def test_shards_are_clipped_by_the_norm_of_the_whole_gradient(run, in_processes):
    clipped = {"clip_norm": 0.05}
    expected = run({**ADAM, **clipped}, max_epochs=1)[0].module.network.flat.detach()
    unclipped = run(ADAM, max_epochs=1)[0].module.network.flat.detach()

    def work(rank):
        return run({**SHARDED, **clipped}, 2, max_epochs=1)[0].module.network.flat.detach()

    for flat in in_processes(2, work):
        torch.testing.assert_close(flat, expected, rtol=1e-9, atol=1e-9)
    assert (unclipped - expected).abs().max() > 1e-3
