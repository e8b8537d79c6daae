"""Steps that are not finite end the training, by their step and place, or are left out as if they had never been."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.callbacks.report import Report
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
INF, NAN = float("inf"), float("nan")
FORKED = {"devices": 2, "strategy": "ddp_fork"}
SGD, ADAM = {"optimizer": "sgd", "lr": 0.05}, {"optimizer": "adam", "lr": 0.01}
CLIPPED = {**ADAM, "clip_norm": 0.5, "weight_decay": 0.01, "averaging": "ema", "ema_decay": 0.8}
NORMED = {**SGD, "momentum": 0.9, "norm": "batch", "dropout": 0.2, "averaging": "ema", "ema_decay": 0.8}
# Of an epoch's five steps the third of the second epoch, counted from 0.
BAD = 7


def bad_input(module, batch):
    """The minibatch with a NaN in one of its samples."""
    x, sample = batch.x.clone(), 3 - batch.first
    if 0 <= sample < len(x):
        x[sample, 5] = NAN
    return batch._replace(x=x)


def bad_weight(value, layer):
    def plant(module, batch):
        module.network.layers[layer].weight.detach()[2, 1] = value
        return batch

    return plant


def bad_loss(value):
    def plant(module, batch):
        forward = module.engine.loss.forward

        def once(logits, y):
            module.engine.loss.forward = forward
            return torch.tensor(value), forward(logits, y)[1]

        module.engine.loss.forward = once
        return batch

    return plant


def bad_gradient(module, batch):
    """A finite delta in the last layer, and weights that make it overflow in the one before."""
    backward = module.engine.loss.backward
    module.engine.loss.backward = lambda cache, scale: backward(cache, scale) * 1e25
    module.network.layers[2].weight.detach().mul_(1e20)
    return batch


def once(fault):
    """In the first minibatch of its step alone."""
    left = [fault]
    return lambda module, batch: left.pop()(module, batch) if left else batch


FAULTS = {
    "input": (bad_input, "the input has nan in sample 3 of the minibatch, column 5", "a fault in the data"),
    "NaN in layer 0": (bad_weight(NAN, 0), "the weights of layer 0 were not finite before it", "learning rate"),
    "inf in layer 1": (bad_weight(INF, 1), "the weights of layer 1 were not finite before it", "learning rate"),
    "inf in layer 2": (bad_weight(-INF, 2), "the weights of layer 2 were not finite before it", "learning rate"),
    "loss": (bad_loss(INF), "the loss is inf", "learning rate"),
    "NaN loss": (bad_loss(NAN), "the loss is nan", "learning rate"),
    "gradient": (bad_gradient, "the gradient of layer 1 overflows", "learning rate"),
}


@pytest.fixture
def planted(make_parts):
    """A training, not yet run, in which the steps of some numbers meet a fault, or are not made where there is none."""

    def make(model, faults, *, data=None, **trainer):
        settings = {"log_every_n_steps": 100, "enable_checkpointing": True, "max_epochs": 3, **trainer}
        callbacks = [
            *checkpoint_callbacks(),
            *settings.pop("callbacks", ()),
        ]
        parts = make_parts({"activation": "leaky_relu", **model}, data, callbacks=callbacks, **settings)
        hand_step = parts.module.hand_step

        def with_fault(batch, step, **keep):
            fault = faults.get(step, lambda module, batch: batch)
            if fault is not None:
                hand_step(fault(parts.module, batch), step, **keep)

        parts.module.hand_step = with_fault
        return parts

    return make


def run(parts, **settings):
    parts.trainer.fit(parts.module, parts.data, weights_only=True, **settings)
    return read_checkpoint(parts.checkpoints / "last.ckpt")


def assert_same_bits(one, other):
    """Weights, averages, statistics and the optimizer's state."""
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in other["state_dict"])
    (states,), (expected,) = (checkpoint["optimizer_states"] for checkpoint in (one, other))
    torch.testing.assert_close(states["state"], expected["state"], rtol=0, atol=0)


@pytest.mark.parametrize("steps_per_execution", [1, 50])
@pytest.mark.parametrize("model", [SGD, ADAM], ids=["sgd inside the product", "adam"])
@pytest.mark.parametrize(("fault", "place", "cause"), FAULTS.values(), ids=FAULTS)
def test_the_training_ends_at_the_step_and_names_the_place(planted, fault, place, cause, model, steps_per_execution):
    parts = planted(model, {BAD: fault}, steps_per_execution=steps_per_execution)
    with pytest.raises(NotFinite, match=f"^step {BAD + 1} is not finite: {place}; likely cause: .*{cause}") as caught:
        run(parts)
    assert caught.value.checkpoint == parts.checkpoints / "last.ckpt"
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = read_checkpoint(parts.checkpoints / name)
        assert checkpoint["global_step"] == 5
        assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    assert len(list(parts.checkpoints.iterdir())) == 2


def test_the_last_good_checkpoint_goes_on_to_the_straight_runs_bits(planted):
    parts = planted(ADAM, {BAD: bad_input})
    with pytest.raises(NotFinite) as caught:
        run(parts)
    assert_same_bits(run(planted(ADAM, {}), ckpt_path=str(caught.value.checkpoint)), run(planted(ADAM, {})))


@pytest.mark.parametrize("model", [SGD, ADAM], ids=["sgd inside the product", "adam"])
def test_what_no_step_can_see_is_found_before_it_is_written(planted, model):
    # The unit's output is 0 whatever its input, and its gradient too.
    parts = planted({**model, "activation": "relu", "init": "glorot_uniform"}, {BAD: bad_weight(-INF, 0)})
    message = "^step 10 is not finite: the weights of layer 0 are not finite after it, but were after step 5; likely"
    with pytest.raises(NotFinite, match=message):
        run(parts)
    assert {read_checkpoint(path)["global_step"] for path in parts.checkpoints.iterdir()} == {5}


def test_a_weight_behind_zeros_is_found_by_the_next_look(planted, dataset):
    """No step sees it: the passes in C skip what a zero is multiplied with."""
    parts = planted({**SGD, "activation": "relu"}, {BAD: bad_weight(NAN, 0)}, data={"batch_size": 16})
    x = dataset.train_x.clone()
    x[:, :8] = 0
    parts.data._data = replace(dataset, train_x=x)
    message = "^step 10 is not finite: the weights of layer 0 are not finite after it, but were after step 5; likely"
    with pytest.raises(NotFinite, match=message):
        run(parts)
    assert {read_checkpoint(path)["global_step"] for path in parts.checkpoints.iterdir()} == {5}


@pytest.mark.parametrize("value", [NAN, INF])
def test_first_weights_that_are_not_finite_are_found_before_the_first_step(planted, value):
    parts = planted({**SGD, "activation": "relu"}, {})
    configure = parts.module.configure_model

    def spoil():
        configure()
        parts.module.network.layers[1].weight.detach()[0, 0] = value

    parts.module.configure_model = spoil
    message = "^step 1 is not finite: the weights of layer 1 were not finite before it; likely cause: inputs or first"
    with pytest.raises(NotFinite, match=message):
        run(parts)


def test_without_a_checkpoint_there_is_none_to_return_to(planted):
    with pytest.raises(NotFinite, match=r"; checkpoint to return to: there is none yet$"):
        run(planted(SGD, {2: bad_input}))
    resumed = planted(SGD, {}, max_epochs=1)
    run(resumed)
    start = resumed.checkpoints / "last.ckpt"
    # What it went on from, or the copy of that in its own folder.
    parts = planted(SGD, {BAD: bad_input})
    with pytest.raises(NotFinite) as caught:
        run(parts, ckpt_path=str(start))
    assert caught.value.checkpoint == parts.checkpoints / "last.ckpt"

    def lost(module, batch):
        shutil.rmtree(parts.checkpoints)
        return bad_input(module, batch)

    parts = planted(SGD, {BAD: lost})
    with pytest.raises(NotFinite) as caught:
        run(parts, ckpt_path=str(start))
    assert caught.value.checkpoint == start


def test_the_first_step_blames_no_learning_rate(planted):
    with pytest.raises(
        NotFinite, match=r"^step 1 is not finite: the output of layer 0 overflows; likely cause: inputs"
    ):
        run(planted(SGD, {0: lambda module, batch: batch._replace(x=batch.x * 3e38)}))


def test_the_error_says_which_checkpoint_to_return_to(tmp_path):
    error = NotFinite("step 3 is not finite: the loss overflows; likely cause: fog")
    assert "there is none" in str(error)
    error.checkpoint = tmp_path / "last.ckpt"
    assert str(error).endswith(f"; checkpoint to return to: {error.checkpoint}")


@pytest.mark.parametrize("fault", [bad_input, bad_loss(INF), bad_gradient], ids=["input", "loss", "gradient"])
def test_numbers_that_wait_on_a_device_are_read_before_anything_is_written(planted, fault):
    """As on a GPU, by the first of them that is not finite."""
    parts = planted(ADAM, {BAD: fault})
    on_train_start = parts.module.on_train_start

    def wait():
        on_train_start()
        parts.module.readings.waits = True

    parts.module.on_train_start = wait
    with pytest.raises(NotFinite, match=rf"^step {BAD + 1} is not finite: .*, as seen after step 10; likely cause"):
        run(parts)
    assert {read_checkpoint(path)["global_step"] for path in parts.checkpoints.iterdir()} == {5}


@pytest.mark.parametrize("fault", [bad_input, bad_loss(NAN)], ids=["input", "loss"])
@pytest.mark.parametrize("model", [SGD, CLIPPED, NORMED], ids=["sgd", "adam, clipped, averaged", "batch norm, dropout"])
def test_a_step_that_is_skipped_changes_nothing(planted, model, fault):
    model = {**model, "nonfinite": "skip"}
    parts, never = planted(model, {BAD: fault}), planted(model, {BAD: None})
    skipped, expected = run(parts), run(never)
    assert_same_bits(skipped, expected)
    assert (skipped["skipped_steps"], expected["skipped_steps"]) == (1, 0)
    assert skipped["global_step"] == expected["global_step"] == 15
    assert parts.module.curves.history["health/skipped_steps"][1][-1] == 1.0


def test_skipping_is_the_same_in_groups_and_the_count_goes_on_with_the_training(planted, tmp_path):
    model, faults = {**CLIPPED, "nonfinite": "skip"}, {2: bad_input, BAD: bad_input, 11: bad_input}
    logger = TensorBoardLogger(tmp_path, name="run")
    straight = planted(model, faults, steps_per_execution=1, log_every_n_steps=5, logger=logger, callbacks=[Report()])
    straight.trainer.fit(straight.module, straight.data)
    folder = tmp_path / "run" / "version_0"
    expected = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert json.loads((folder / "metrics.json").read_text())["skipped_steps"] == 3
    assert_same_bits(run(planted(model, faults, steps_per_execution=50)), expected)
    half = planted(model, faults, max_epochs=2)
    assert run(half)["skipped_steps"] == 2
    resumed = run(planted(model, faults), ckpt_path=str(half.checkpoints / "last.ckpt"))
    assert_same_bits(resumed, expected)
    assert resumed["skipped_steps"] == 3


def test_a_minibatch_of_several_that_make_a_step(planted):
    # Of an epoch's three steps the second of the second epoch.
    with pytest.raises(NotFinite, match=r"^step 5 is not finite: the input has nan in sample 3 "):
        run(planted(CLIPPED, {4: once(bad_input)}, accumulate_grad_batches=2))
    skips = {**CLIPPED, "nonfinite": "skip"}
    skipped = run(planted(skips, {4: once(bad_input)}, accumulate_grad_batches=2))
    assert_same_bits(skipped, run(planted(skips, {4: None}, accumulate_grad_batches=2)))
    assert skipped["skipped_steps"] == 1


def test_skipping_changes_no_training_that_is_finite(planted):
    runs = (run(planted({**CLIPPED, "nonfinite": name}, {})) for name in ("skip", "stop"))
    assert_same_bits(*runs)


def test_weights_that_are_not_finite_end_a_training_that_skips(planted):
    parts = planted({**ADAM, "nonfinite": "skip"}, {BAD: bad_weight(NAN, 1)})
    with pytest.raises(NotFinite, match=r"^step 10 is not finite: the weights of layer 1 are not finite after it"):
        run(parts)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_two_processes_skip_alike(planted, sharded):
    # The third sample of 16 belongs to the first process alone.
    model = {**ADAM, "clip_norm": 0.5, "nonfinite": "skip"}
    one = run(planted(model, {BAD: bad_input}))
    two = run(planted({**model, "shard_optimizer": sharded}, {BAD: bad_input}, **FORKED))
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-6, atol=1e-6)
    assert two["skipped_steps"] == one["skipped_steps"] == 1


def test_two_processes_stop_together(planted):
    parts = planted(ADAM, {BAD: bad_input}, **FORKED)
    with pytest.raises(Exception, match=r"step 8 is not finite: the input has nan in sample 3 of the minibatch"):
        run(parts)
    assert {read_checkpoint(path)["global_step"] for path in parts.checkpoints.iterdir()} == {5}
