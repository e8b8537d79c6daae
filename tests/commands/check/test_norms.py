"""``check`` accepts right norms and dropout in every configuration, and names what is wrong in a broken one."""

import pytest
import torch

from mlp_lightning.commands.check.command import check
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.torch import passes as workspace_file
from mlp_lightning.nn import ACTIVATIONS, norm
from mlp_lightning.nn import mlp as mlp_file
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.training.module import MLPModule

pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")

SIZES = (6, 6, 5, 4)
LAST = {"layers.2.weight", "layers.2.bias"}


def run(capsys, *, samples=12, sizes=SIZES, precision="64-true", **options):
    """Whether all passed, and the tensors whose gradients are named as wrong in the part ``gradients, float64``."""
    options = {"init": "he_notebook", "lr": 0.01, "activation": "tanh", **options}
    module = MLPModule(hidden=list(sizes[1:-1]), **options)
    module._build(sizes)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(3):
        x = torch.rand(samples, sizes[0], generator=generator)
        y = torch.randint(sizes[-1], (samples,), generator=generator)
        batches.append(Batch(x, y, x[:0], y[:0], samples))
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    passed = check(module, batches, precision=precision, steps_per_epoch=3, total_steps=12)
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    text = capsys.readouterr().out
    parts = [part for part in text.split("tensor  ")[1:] if "dlogits" in part]
    wrong = {line.split()[0] for line in parts[0].splitlines() if line.endswith("WRONG")}
    return passed, wrong, text


GOOD = [
    *({"norm": kind, "activation": name} for kind in ("batch", "layer") for name in ACTIVATIONS),
    *({"norm": kind, "init": init} for kind in ("batch", "layer") for init in ("zeros", "orthogonal")),
    *({"norm": kind, "dropout": p, "input_dropout": 0.1} for kind in ("none", "batch", "layer") for p in (0.0, 0.5)),
    *({"norm": kind, "optimizer": rule} for kind in ("batch", "layer") for rule in ("sgd", "adamw", "rmsprop")),
    {"norm": "batch", "dropout": 0.3, "clip_norm": 0.05, "reduction": "sum"},
    {"norm": "layer", "dropout": 0.3, "class_weights": [0.1, 2.0, 1.0, 0.7], "label_smoothing": 0.1},
    {"norm": "batch", "loss": "mse"},
    {"norm": "batch", "samples": 1},
    {"norm": "batch", "samples": 2},
    {"norm": "layer", "samples": 1},
    {"norm": "batch", "dropout": 0.9, "seed": 3},
    {"norm": "batch", "input_dropout": 0.5, "sizes": (6, 4)},
    {"norm": "batch", "averaging": "ema"},
    {"norm": "layer", "sizes": (6, 2, 2, 4)},
    {"dropout": 0.3, "optimizer": "sgd"},
]


@pytest.mark.parametrize("options", GOOD, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()))
def test_right_formulas_pass(options, capsys):
    passed, _, text = run(capsys, precision="32-true", **options)
    assert passed, text


def test_norms_and_running_statistics_have_rows(capsys):
    _, _, text = run(capsys, norm="batch")
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert f"norms.1.{name}, steps" in text
    assert "norms.0.running_mean" not in run(capsys, norm="layer")[2]


def unbiased(z, size, total, right=norm.batch_norm_forward_):
    cache = right(z, size, total)
    scale = ((size - 1) / size) ** 0.5
    return cache._replace(z_hat=z.mul_(scale), inverse_std=cache.inverse_std * scale)


def without_beta(dn, gamma, cache, size, total):
    dgamma, dbeta = (dn * cache.z_hat).sum(0), dn.sum(0)
    return (dn - cache.z_hat * dgamma / size) * gamma * cache.inverse_std, dgamma, dbeta


def without_gamma_term(dn, gamma, cache, size, total):
    dgamma, dbeta = (dn * cache.z_hat).sum(0), dn.sum(0)
    return (dn - dbeta / size) * gamma * cache.inverse_std, dgamma, dbeta


def fixed(dn, gamma, cache, size, total):
    return norm.fixed_norm_backward_(dn, gamma, cache)


def gamma_afterwards(dn, gamma, cache, right=norm.layer_norm_backward_):
    dz, dgamma, dbeta = right(dn, torch.ones_like(gamma), cache)
    return dz * 1.001, dgamma, dbeta


def swapped(dn, gamma, cache, right=norm.layer_norm_backward_):
    dz, dgamma, dbeta = right(dn, gamma, cache)
    return dz, dbeta, dgamma


BELOW = {"layers.1.weight", "layers.0.weight", "dx", "norms.0.weight"}
NORM_PARAMETERS = {f"norms.{k}.{kind}" for k in (0, 1) for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("kind", "name", "broken", "wrong"),
    [
        pytest.param("batch", "batch_norm_backward_", without_beta, BELOW, id="batch-without-dbeta"),
        pytest.param("batch", "batch_norm_backward_", without_gamma_term, BELOW, id="batch-without-dgamma"),
        pytest.param("batch", "batch_norm_backward_", fixed, BELOW, id="batch-as-in-evaluation"),
        pytest.param("batch", "batch_norm_forward_", unbiased, {"logits", "loss", *LAST}, id="batch-unbiased"),
        pytest.param("layer", "layer_norm_backward_", gamma_afterwards, BELOW, id="layer-factor"),
        pytest.param("layer", "layer_norm_backward_", swapped, NORM_PARAMETERS, id="layer-parameters-swapped"),
    ],
)
def test_a_wrong_norm_is_named(kind, name, broken, wrong, monkeypatch, capsys):
    monkeypatch.setattr(norm, name, broken)
    passed, found, text = run(capsys, norm=kind)
    assert not passed
    assert wrong <= found, text
    # What the backward pass computes before the fault is right.
    if "backward" in name:
        assert not found & {"logits", "loss", "dlogits", *LAST}


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_another_epsilon_is_named(kind, monkeypatch, capsys):
    monkeypatch.setattr(norm, "EPS", 1e-4)
    passed, found, _ = run(capsys, norm=kind)
    assert not passed
    assert "logits" in found


@pytest.mark.parametrize("spoil", ["momentum", "biased"])
def test_wrong_running_statistics_are_named(spoil, monkeypatch, capsys):
    if spoil == "momentum":
        monkeypatch.setattr(norm, "MOMENTUM", 0.11)
    else:
        right = norm.follow_
        monkeypatch.setattr(
            workspace_file, "follow_", lambda n, c: right(n, c._replace(var=c.var * (1 - 1 / c.training.size)))
        )
    passed, found, text = run(capsys, norm="batch")
    assert not passed
    assert not found
    closing = text.splitlines()[-1]
    assert "norms.0.running_var, steps 1–12 (updates, float64)" in closing
    assert ("running_mean" in closing) == (spoil == "momentum")
    assert "gradient" not in closing


@pytest.mark.parametrize("norm_kind", ["none", "batch"])
def test_a_wrong_scale_of_dropout_is_named(norm_kind, monkeypatch, capsys):
    right = Dropout.masks
    monkeypatch.setattr(
        Dropout, "masks", lambda self, *rest: [m if m is None else (m != 0).to(m) for m in right(self, *rest)]
    )
    passed, found, _ = run(capsys, norm=norm_kind, dropout=0.3)
    assert not passed
    assert "logits" in found


@pytest.mark.parametrize("file", [mlp_file, workspace_file], ids=["the network", "the training alone"])
def test_dropout_forgotten_on_the_way_back_is_named(file, monkeypatch, capsys):
    monkeypatch.setattr(file, "dropout_backward", lambda da, mask: da)
    passed, found, text = run(capsys, dropout=0.3)
    assert not passed
    if file is mlp_file:
        assert {"layers.1.weight", "layers.0.weight", "dx"} <= found
        assert not found & LAST
    else:
        assert not found
        assert "gradient of layers.0.weight, steps 1–12 (updates, float64)" in text.splitlines()[-1]


def test_the_masks_of_another_step_are_named(monkeypatch, capsys):
    right = Engine._training_pass
    monkeypatch.setattr(Engine, "_training_pass", lambda self, batch, step: right(self, batch, step + 1))
    passed, found, text = run(capsys, dropout=0.3)
    assert not passed
    assert not found
    assert "gradient of layers.2.weight, steps 1–12 (updates, float64)" in text.splitlines()[-1]


def test_statistics_that_do_not_follow_are_named(monkeypatch, capsys):
    monkeypatch.setattr(workspace_file.TorchPasses, "follow", lambda self: None)
    passed, _, text = run(capsys, norm="batch")
    assert not passed
    closing = text.splitlines()[-1]
    assert all(f"norms.{k}.running_{name}, steps 1–12" in closing for k in (0, 1) for name in ("mean", "var"))
