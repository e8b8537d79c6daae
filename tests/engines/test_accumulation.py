"""Several minibatches that make one update: what one minibatch of all their samples would have made."""

import pytest
import torch
import torch.distributed as dist
from fixtures.steps import engine_of
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch import nn

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.optim import SGD
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.trainer_options import check_trainer_options

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
WEIGHTS = [0.5, 1.0, 2.0, 3.0]
MOMENTUM = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9}
ADAM = {"optimizer": "adam", "lr": 0.01, "eps": 1e-4}
# Of 70 samples. Four minibatches of 16 and one of 6 are, two by two, two of 32 and one of 6; eight of 8 and one of 6
# are, three by three, two of 24 and one of 22; eighteen of 4 by fours leave two, of 4 and 2 samples.
SIZES = [(16, 2), (8, 3), (4, 4)]
MODELS = {
    "mean, weights, clipped by norm": {**MOMENTUM, "class_weights": WEIGHTS, "clip_norm": 0.05, "weight_decay": 0.01},
    "sum, clipped by value, ema": {
        **ADAM,
        "reduction": "sum",
        "clip_value": 0.5,
        "averaging": "ema",
        "ema_decay": 0.9,
    },
    "mean, one-cycle, swa": {**ADAM, "schedule": "one_cycle", "averaging": "swa", "swa_start": 0.5},
    "mean, cosine, layer norm": {**MOMENTUM, "schedule": "cosine", "warmup_epochs": 1.5, "norm": "layer"},
    "mean squared error, steps, l1": {**ADAM, "loss": "mse", "schedule": "step", "step_epochs": 1.5, "l1": 0.01},
    "plain sgd, max-norm": {"optimizer": "sgd", "lr": 0.1, "max_norm": 1.0},
}
ROWS = {
    f"{name}, {count} of {batch_size}": (model, batch_size, count)
    for (name, model), (batch_size, count) in zip(MODELS.items(), [*SIZES, *SIZES], strict=True)
}


def everything(parts):
    (optimizer,) = parts.trainer.optimizers
    state = parts.trainer.strategy.optimizer_state(optimizer)["state"].get(0, {})
    return {
        **parts.module.state_dict(),
        **{f"optimizer.{name}": torch.as_tensor(value) for name, value in state.items()},
    }


@pytest.mark.parametrize(("model", "batch_size", "count"), ROWS.values(), ids=ROWS)
def test_small_minibatches_train_as_large_ones(fit, model, batch_size, count):
    settings = {"precision": "64-true", "max_epochs": 3, "log_every_n_steps": 2}
    large = fit(model, {"batch_size": batch_size * count}, **settings)
    small = fit(model, {"batch_size": batch_size}, accumulate_grad_batches=count, **settings)
    torch.testing.assert_close(everything(small), everything(large), rtol=1e-12, atol=1e-12)
    assert small.trainer.global_step == large.trainer.global_step == 3 * -(-70 // (batch_size * count))
    assert small.trainer.estimated_stepping_batches == large.trainer.estimated_stepping_batches
    assert small.module.samples_seen == large.module.samples_seen
    assert small.module.curves.history.keys() == large.module.curves.history.keys()
    for name, (steps, values) in large.module.curves.history.items():
        assert small.module.curves.history[name] == (steps, pytest.approx(values, rel=1e-9)), name


def test_full_minibatches_are_averaged_as_users_of_torch_know_it(fit, torch_network, named_weights):
    """Each minibatch's mean, divided by their number, and backward; then one step."""
    settings = {"accumulate_grad_batches": 2, "limit_train_batches": 4, "precision": "64-true", "max_epochs": 3}
    parts = fit({**MOMENTUM, "clip_norm": 0.1}, **settings)
    model = torch_network(parts.start.weights)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    batches = parts.start.batches
    assert [len(batch.y) for batch in batches] == [16] * 12
    for pair in zip(batches[::2], batches[1::2], strict=True):
        optimizer.zero_grad()
        for batch in pair:
            (nn.functional.cross_entropy(model(batch.x), batch.y) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    expected = named_weights(model)
    weights = {name: tensor for name, tensor in parts.module.network.state_dict().items() if name in expected}
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-12)


def network(norm="none"):
    return MLP((12, 9, 7, 4), "tanh", norm=norm, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def minibatches(*sizes):
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        x = torch.rand(size, 12, generator=generator, dtype=torch.float64)
        yield Batch(x, torch.randint(4, (size,), generator=generator), x[:0], torch.zeros(0).long(), size)


PARTS = {
    "plain": {},
    "weights": {"class_weights": WEIGHTS},
    "adversary, weights": {"class_weights": WEIGHTS, "vat": True},
    "dropout, batch norm, adversary": {"dropout": True, "norm": "batch", "vat": True},
    "bf16": {"dtype_of_products": torch.bfloat16},
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", PARTS.values(), ids=PARTS)
def test_the_gradient_is_the_weighted_mean_of_the_minibatches(options, reduction):
    """Masks, statistics and perturbations stay those of each minibatch."""
    options = dict(options)
    weights, norm = options.pop("class_weights", None), options.pop("norm", "none")
    drops, has_adversary = options.pop("dropout", False), options.pop("vat", False)
    loss = SoftmaxCrossEntropy("sum", class_weights=None if weights is None else torch.tensor(weights).double())

    def step_on(net, **more):
        parts = {
            "dropout": Dropout(net.sizes, 0.3, 0.1, seed=3, dtype=torch.float64) if drops else None,
            "adversary": VirtualAdversary(net, weight=0.7, eps=0.5) if has_adversary else None,
        }
        return engine_of(net, loss, SGD([net.flat], 0.1), reduction=reduction, **parts, **options, **more)

    batches = list(minibatches(6, 9, 4))
    gathered = network(norm)
    step = step_on(gathered, accumulate=3)
    for number, batch in enumerate(batches):
        before = gathered.flat.clone()
        step(batch, 0.1, step=5, updates=number == 2)
        assert torch.equal(gathered.flat, before) == (number < 2)
    total, divisor = torch.zeros_like(gathered.flat), 0.0
    for number, batch in enumerate(batches):
        net = network(norm)
        # Random numbers follow from the minibatch's place: two updates of three come to fifteen before it.
        _, normalizer = step_on(net, clip_norm=1e9)(batch, 0.0, step=5 * 3 + number)
        share = float(normalizer) if reduction == "mean" else 1.0
        total, divisor = total + share * net.flat_grad, divisor + share
    expected = total / divisor if reduction == "mean" else total
    tolerance = 1e-2 if "dtype_of_products" in options else 1e-12
    torch.testing.assert_close(gathered.flat_grad, expected, rtol=tolerance, atol=tolerance)


class SaveAt(Callback):
    """A checkpoint after so many minibatches of the first epoch."""

    def __init__(self, minibatches):
        self.minibatches = minibatches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 0 and batch_idx + 1 == self.minibatches:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/middle.ckpt")


RESUMED = [
    {**ADAM, "class_weights": WEIGHTS, "averaging": "ema", "ema_decay": 0.8},
    {**MOMENTUM, "reduction": "sum", "lr": 0.002, "dropout": 0.2, "norm": "batch", "vat": 0.5},
]


@pytest.mark.parametrize(
    ("model", "minibatches"), [(RESUMED[0], 1), (RESUMED[0], 3), (RESUMED[1], 2)], ids=["1, adam", "3, adam", "2, sgd"]
)
def test_from_between_two_updates_it_goes_on_to_the_last_bit(fit, model, minibatches):
    settings = {"accumulate_grad_batches": 3, "max_epochs": 3, "log_every_n_steps": 2}
    straight = fit(model, callbacks=[SaveAt(minibatches)], **settings)
    path = f"{straight.trainer.default_root_dir}/middle.ckpt"
    gathered = torch.load(path, weights_only=True).get("gathered", {})
    assert gathered.get("count", 0) == minibatches % 3
    for size in (1, 50):
        resumed = fit(model, ckpt_path=path, steps_per_execution=size, **settings)
        torch.testing.assert_close(everything(resumed), everything(straight), rtol=0, atol=0)
        assert resumed.module.curves.history == straight.module.curves.history
    assert straight.trainer.global_step == 3 * 2
    if gathered:
        with pytest.raises(UserError, match=r"^trainer\.accumulate_grad_batches: got 2, but the checkpoint of --ckpt"):
            fit(model, ckpt_path=path, **{**settings, "accumulate_grad_batches": 2})


def test_lightnings_numbers_by_epoch_are_refused():
    options = Namespace(gradient_clip_val=None, callbacks=[GradientAccumulationScheduler({4: 2})])
    with pytest.raises(UserError, match=r"^trainer\.callbacks: got GradientAccumulationScheduler.* use trainer\.accum"):
        check_trainer_options(options)


def test_health_looks_at_the_last_minibatch_and_changes_nothing(fit):
    settings = {"accumulate_grad_batches": 2, "log_every_n_steps": 1}
    plain = fit(ADAM, **settings)
    watched = fit(ADAM, callbacks=[Health()], steps_per_execution=1, **settings)
    torch.testing.assert_close(everything(watched), everything(plain), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [{}, {"shard_optimizer": True}, {"overlap_reduction": True}], ids=str)
def test_three_processes_reduce_once_an_update(fit, in_processes, monkeypatch, kind, tmp_path):
    model = {**ADAM, "class_weights": WEIGHTS, "clip_norm": 0.05}
    data = {"batch_size": 8}
    settings = {"accumulate_grad_batches": 3, "precision": "64-true", "max_epochs": 3}
    one = fit(model, data, callbacks=[SaveAt(4)], **settings)
    sent = []

    def counted(name):
        function = getattr(dist, name)

        def call(tensor, *args, **kwargs):
            sent.append(tensor.numel())
            return function(tensor, *args, **kwargs)

        return call

    def work(rank):
        folder = tmp_path / "three"
        parts = fit(
            {**model, **kind},
            data,
            devices=3,
            strategy="ddp",
            callbacks=[SaveAt(4)],
            default_root_dir=folder,
            **settings,
        )
        whole = everything(parts)
        monkeypatch.setattr(dist, "all_reduce", counted("all_reduce"))
        sent.clear()
        fit({**model, **kind}, data, devices=3, strategy="ddp", **settings)
        return whole, sum(sent)

    (first, numbers), *others = in_processes(3, work)
    torch.testing.assert_close(first, everything(one), rtol=1e-12, atol=1e-12)
    for other, _ in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    if "shard_optimizer" not in kind:
        # Nine updates, and little else: records, the class weights of each minibatch.
        numel = one.module.network.flat.numel()
        assert 9 * numel <= numbers < 10 * numel
    # Between two updates each process had gathered its own shares: the checkpoint has the sum, for any number.
    resumed = fit({**model, **kind}, data, ckpt_path=tmp_path / "three" / "middle.ckpt", **settings)
    torch.testing.assert_close(everything(resumed), everything(one), rtol=1e-12, atol=1e-12)
    path = f"{one.trainer.default_root_dir}/middle.ckpt"
    assert torch.load(path, weights_only=True)["gathered"]["count"] == 1

    def resume(rank):
        return everything(fit({**model, **kind}, data, ckpt_path=path, devices=2, strategy="ddp", **settings))

    for result in in_processes(2, resume):
        torch.testing.assert_close(result, everything(one), rtol=1e-12, atol=1e-12)
