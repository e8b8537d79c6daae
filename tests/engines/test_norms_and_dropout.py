"""Trainings with norms and dropout beside torch.nn, autograd and torch.optim."""

import pytest
import torch
from fixtures.steps import engine_of
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torch.nn.functional import cross_entropy

from mlp_lightning.data.batches import Batch
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import FORMAT_KEY
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.optim import SGD, Adam
from mlp_lightning.training.callbacks.health import Health
from mlp_lightning.training.callbacks.health_figures import minibatch_figures
from mlp_lightning.training.callbacks.tables import network_table
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks

SIZES = (12, 9, 7, 4)
NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
RULES = {
    "sgd": (lambda flat: SGD([flat], 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "adam": (lambda flat: Adam([flat], 0.01), lambda p: torch.optim.Adam(p, 0.01)),
}


class Masked(nn.Module):
    def forward(self, a):
        return a * self.mask if self.training else a


def plain(net, dropout=False):
    """torch.nn.Sequential with what the network's state dict holds."""
    modules, state = [], net.state_dict()

    def load(module, prefix):
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        module.load_state_dict(own, strict=False)
        modules.append(module)

    for k, (fan_in, fan_out) in enumerate(zip(net.sizes[:-1], net.sizes[1:], strict=True)):
        modules += [Masked()] if dropout else []
        load(nn.Linear(fan_in, fan_out, dtype=net.flat.dtype), f"layers.{k}.")
        if fan_out != net.sizes[-1]:
            if net.norm != "none":
                load(NORMS[net.norm](fan_out, dtype=net.flat.dtype), f"norms.{k}.")
            modules.append(nn.ReLU())
    return nn.Sequential(*modules)


def minibatches(sizes):
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        x = torch.rand(size, SIZES[0], generator=generator, dtype=torch.float64)
        y = torch.randint(SIZES[-1], (size,), generator=generator)
        yield Batch(x, y, x[:0], y[:0], size)


def network(norm, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return MLP(SIZES, "relu", "he_notebook", norm=norm, generator=generator, dtype=torch.float64).to(dtype)


def assert_same_network(net, model, **tolerance):
    twin = plain(net)
    theirs = [tensor for name, tensor in model.state_dict().items() if "tracked" not in name]
    ours = [tensor for name, tensor in twin.state_dict().items() if "tracked" not in name]
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, **tolerance)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_steps_are_those_of_torch(norm, p, rule):
    """Weights, γ, β and running statistics after 12 steps of sizes that vary."""
    net = network(norm)
    model = plain(net, dropout=True)
    dropout = Dropout(SIZES, p, p / 2, 0, dtype=torch.float64) if p else None
    step = engine_of(net, SoftmaxCrossEntropy("sum"), RULES[rule][0](net.flat), reduction="mean", dropout=dropout)
    assert step.is_fused == (rule == "sgd" and norm == "none")
    optimizer = RULES[rule][1](model.parameters())
    for t, batch in enumerate(minibatches([16, 16, 9, 16, 2, 5] * 2)):
        masks = Dropout(SIZES, p, p / 2, 0, dtype=torch.float64).masks(t, batch.size)
        for module, mask in zip((m for m in model if isinstance(m, Masked)), masks, strict=True):
            module.mask = torch.ones(()) if mask is None else mask
        optimizer.zero_grad()
        cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
        step(batch, 0.1 if rule == "sgd" else 0.01, step=t)
    # Adam divides the gradient of a bias before batch norm, which is rounding alone, by its own size.
    if not (rule == "adam" and norm == "batch"):
        assert_same_network(net, nn.Sequential(*(m for m in model if not isinstance(m, Masked))), rtol=1e-8, atol=1e-9)
    for logits, expected in [(net(batch.x)[0], model.eval()(batch.x))]:
        torch.testing.assert_close(logits, expected.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_evaluation_is_that_of_a_plain_network_loaded_from_the_checkpoint(fit, dataset, norm):
    options = {"norm": norm, "dropout": 0.2, "input_dropout": 0.1, "lr": 0.01}
    parts = fit(options, max_epochs=6, callbacks=checkpoint_callbacks(), enable_checkpointing=True)
    parts.trainer.test(parts.module, parts.data, verbose=False)
    loaded = MLPModule.load_from_checkpoint(parts.checkpoints / "last.ckpt", weights_only=True)
    assert loaded.network.norm == norm
    model = plain(loaded.network).eval()
    logits = model(dataset.test_x).detach()
    torch.testing.assert_close(loaded(dataset.test_x), logits, rtol=1e-5, atol=1e-5)
    assert parts.module.results["test/loss"] == pytest.approx(float(cross_entropy(logits, dataset.test_y)), rel=1e-5)
    correct = float((logits.argmax(1) == dataset.test_y).float().mean())
    assert parts.module.results["test/accuracy"] == pytest.approx(correct)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"norm": "batch"}, {"norm": "layer"}], ids=str)
def test_validation_draws_nothing_and_changes_nothing(fit, options):
    """A validation after every step, or none at all: the same training."""
    often, never = (fit({**options, "lr": 0.01}, val_check_interval=1, limit_val_batches=limit) for limit in (1.0, 0))
    torch.testing.assert_close(often.module.state_dict(), never.module.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"dropout": 0.2}, {"norm": "batch"}, {"norm": "layer", "dropout": 0.2}], ids=str)
def test_mixed_precision_goes_where_float32_goes(options):
    nets = []
    for dtype, products in ((torch.float64, None), (torch.float32, torch.bfloat16), (torch.bfloat16, None)):
        net = network(options.get("norm", "none"), dtype)
        start = net.flat.clone()
        p = options.get("dropout", 0.0)
        dropout = Dropout(SIZES, p, 0.0, 0, dtype=products or dtype) if p else None
        loss = SoftmaxCrossEntropy("sum")
        step = engine_of(
            net, loss, SGD([net.flat], 0.05), reduction="mean", dropout=dropout, dtype_of_products=products
        )
        for t, batch in enumerate(minibatches([32] * 20)):
            step(batch._replace(x=batch.x.to(dtype)), 0.05, step=t)
        nets.append(net)
    exact, mixed, half = (net.flat.double() for net in nets)
    moved = (exact - start.double()).norm()
    assert 0 < (mixed - exact).norm() < 0.1 * moved
    assert (half - exact).norm() < 0.5 * moved
    if nets[0].running is not None:
        for net, tolerance in zip(nets[1:], (0.02, 0.1), strict=True):
            torch.testing.assert_close(net.running.double(), nets[0].running, rtol=tolerance, atol=tolerance)


def test_a_last_minibatch_of_one_sample(fit):
    # 70 samples are 3 · 23 + 1.
    parts = fit({"norm": "batch", "lr": 0.01}, {"batch_size": 23}, max_epochs=3)
    assert parts.trainer.global_step == 12
    assert parts.module.network.flat.isfinite().all()
    assert parts.module.network.running.isfinite().all()
    assert (parts.module.network.running[1] > 0).all()


def test_averaged_weights_have_averaged_statistics(fit, dataset):
    parts = fit({"norm": "batch", "lr": 0.01, "averaging": "ema", "ema_decay": 0.5}, max_epochs=4)
    module = parts.module
    assert not torch.equal(module.averaged_network.running, module.network.running)
    torch.testing.assert_close(module.averaged_network.running, module.network.running, rtol=0.5, atol=0.2)
    torch.testing.assert_close(module(dataset.test_x), plain(module.averaged_network).eval()(dataset.test_x).detach())


def test_a_checkpoint_from_before_there_were_norms(fit):
    parts = fit({}, callbacks=checkpoint_callbacks(), enable_checkpointing=True)
    path = parts.checkpoints / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["norm"]
    for name in ("norm", "dropout", "input_dropout"):
        del checkpoint["hyper_parameters"][name]
    # Nor were they sealed.
    del checkpoint[FORMAT_KEY]
    torch.save(checkpoint, path)
    loaded = MLPModule.load_from_checkpoint(path, weights_only=True)
    assert torch.equal(loaded.network.flat, parts.module.network.flat)
    resumed = fit({}, max_epochs=3, ckpt_path=path, callbacks=checkpoint_callbacks(), enable_checkpointing=True)
    assert resumed.trainer.global_step == 15


def test_a_checkpoint_of_another_norm(fit):
    parts = fit({"norm": "layer"}, callbacks=checkpoint_callbacks(), enable_checkpointing=True)
    with pytest.raises(UserError, match=r"^model\.norm: got batch, but the checkpoint of --ckpt_path has layer$"):
        fit({"norm": "batch"}, ckpt_path=parts.checkpoints / "last.ckpt")


@pytest.mark.parametrize("name", ["dropout", "input_dropout"])
@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_probabilities_out_of_range(name, p):
    with pytest.raises(UserError, match=rf"^model\.{name}: got {p}, must be in \[0, 1\)$"):
        MLPModule(**{name: p})


def test_minibatches_of_one_sample_are_refused(fit):
    with pytest.raises(UserError, match=r"^data\.batch_size: got 1, must be at least 2 for model\.norm batch$"):
        fit({"norm": "batch"}, {"batch_size": 1})


@pytest.mark.parametrize("options", [{"norm": "batch", "dropout": 0.3}, {"norm": "layer"}], ids=str)
def test_health_measures_norms_and_changes_nothing(fit, options):
    logged = CSVLogs()
    with_it = fit({**options, "lr": 0.01}, callbacks=[Health()], logger=logged)
    without = fit({**options, "lr": 0.01})
    torch.testing.assert_close(with_it.module.state_dict(), without.module.state_dict(), rtol=0, atol=0)
    for k in (0, 1):
        assert logged.seen[f"health/norm_weight/layer {k}"] == pytest.approx(1, abs=0.1)
        assert 0 <= logged.seen[f"health/norm_bias/layer {k}"] < 0.2
        assert logged.seen[f"health/norm_gradient/layer {k}"] > 0
    assert "health/norm_weight/layer 2" not in logged.seen


class CSVLogs(DummyLogger):
    """The last value of every metric."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def log_metrics(self, metrics, step=None):
        self.seen |= metrics


def test_dead_units_are_judged_by_what_the_activation_reads_and_not_by_dropout():
    net = network("batch")
    (batch,) = minibatches([16])
    # β moves all of layer 0's units but two below the kink, whatever Z is; dropout would silence a share of the others.
    net.norms[0].beta.fill_(-100)
    net.norms[0].beta[:2] = 100
    figures = minibatch_figures(net, SoftmaxCrossEntropy("sum"), batch.x, batch.y, "mean")
    assert float(figures["dead/layer 0"]) == pytest.approx(7 / 9)


def test_health_takes_the_statistics_of_the_minibatch():
    net = network("batch")
    (batch,) = minibatches([16])
    figures = minibatch_figures(net, SoftmaxCrossEntropy("sum"), batch.x, batch.y, "mean")
    model = plain(net)
    cross_entropy(model(batch.x), batch.y).backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert float(figures["mean_gradient_norm"]) == pytest.approx(float(gradients.norm()))


def test_the_table_of_the_network_counts_norms():
    lines = network_table(network("layer"), "relu").split("\n")
    assert lines[2].split() == ["0", "9", "×", "12", "9", "layer", "norm,", "relu", "135"]
    assert lines[4].split() == ["2", "4", "×", "7", "4", "none", "32"]
    assert lines[5].split() == ["all", f"{network('layer').flat.numel()}"]
