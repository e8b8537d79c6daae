"""Training with mixup beside autograd with torch's losses of probabilities."""

import pytest
import torch
from torch.nn import functional as F

from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.nn import LOSSES

CLASSES = 4
WEIGHTS = [0.5, 1.0, 2.0, 3.0]
DATA = {"mixup": 1.0, "deform": DeformOptions(elastic=0.5, sigma=1.0, rotation=20, noise=0.1)}
ROWS = {
    "cross-entropy": {},
    "sum": {"reduction": "sum"},
    "smoothed": {"label_smoothing": 0.2},
    "weighted and smoothed": {"class_weights": WEIGHTS, "label_smoothing": 0.2},
    "sum, weighted": {"class_weights": WEIGHTS, "reduction": "sum"},
    "squared error": {"loss": "mse"},
}


def torchs(logits, batch, model):
    """The loss, and what its mean divides by."""
    own, partners = (F.one_hot(y, CLASSES).to(logits) for y in (batch.y, batch.partner_y))
    mixed = batch.share * own + (1 - batch.share) * partners
    is_mean = model.get("reduction") != "sum"
    if model.get("loss") == "mse":
        return F.mse_loss(logits, mixed, reduction="sum"), logits.numel() if is_mean else 1
    weight = None if "class_weights" not in model else torch.tensor(WEIGHTS, dtype=logits.dtype)
    total = F.cross_entropy(
        logits, mixed, weight=weight, reduction="sum", label_smoothing=model.get("label_smoothing", 0.0)
    )
    # The partners are the same samples in another order: both have the same total weight.
    normalizer = len(batch.y) if weight is None else weight[batch.y].sum()
    return total, normalizer if is_mean else 1


@pytest.mark.parametrize("model", ROWS.values(), ids=ROWS)
def test_a_training_is_autograds(fit, torch_network, named_weights, model):
    lr = 0.05 if model.get("reduction") != "sum" else 0.005
    options = {"optimizer": "sgd", "lr": lr, **model}
    run = fit(options, DATA, precision="64-true", log_every_n_steps=1, max_epochs=3)
    network = torch_network(run.start.weights)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    losses = []
    for batch in run.start.batches:
        total, normalizer = torchs(network(batch.x), batch, model)
        optimizer.zero_grad()
        (total / normalizer).backward()
        optimizer.step()
        recorded = total / torchs(network(batch.x), batch, {**model, "reduction": "mean"})[1]
        losses.append(recorded.item())
    assert len(losses) == 15
    torch.testing.assert_close(named_weights(network), dict(run.module.network.state_dict()), rtol=1e-9, atol=1e-9)
    assert run.module.curves.history["train/loss"][1] == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_gradient_is_linear_in_the_targets(loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, CLASSES, generator=generator, dtype=torch.float64)
    y, partner_y, share = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([2, 1, 0, 1, 3]), 0.3
    mixed = share * F.one_hot(y, CLASSES).double() + (1 - share) * F.one_hot(partner_y, CLASSES).double()
    rule = LOSSES[loss]("mean")
    one, other, both = (rule.backward(rule.forward(logits, targets)[1]) for targets in (y, partner_y, mixed))
    torch.testing.assert_close(both, share * one + (1 - share) * other)


@pytest.mark.parametrize(
    ("precision", "dtype", "atol"),
    [
        ("bf16-true", torch.bfloat16, 0.02),
        ("bf16-mixed", torch.float32, 0),
        ("64-true", torch.float64, 1e-6),
    ],
)
def test_every_precision_trains_on_the_same_samples(fit, precision, dtype, atol):
    run, single = (fit({}, DATA, precision=name) for name in (precision, "32-true"))
    for batch, expected in zip(run.start.batches, single.start.batches, strict=True):
        assert batch.x.dtype == dtype
        torch.testing.assert_close(batch.x.float(), expected.x, rtol=0, atol=atol)
    assert all(value < 3 for value in run.module.curves.history["train/loss"][1])


@pytest.mark.parametrize(
    ("trainer", "weak"),
    [
        ({"max_epochs": 4}, [3]),
        ({"max_epochs": -1, "max_steps": 20}, [3]),
        ({"max_epochs": -1, "max_steps": 8, "limit_train_batches": 2}, [3]),
        ({"max_epochs": -1, "max_steps": 8, "limit_train_batches": 0.4}, [3]),
    ],
    ids=["epochs", "steps", "a limit", "a share"],
)
def test_the_last_epochs_are_those_of_the_training(fit, dataset, trainer, weak):
    options = DeformOptions(noise=0.1, end_strength=0.0, end_share=0.25)
    run = fit({}, {"deform": options, "shuffle": False}, **trainer)
    per_epoch = len(run.start.batches) // 4
    first = run.start.batches[::per_epoch]
    clean = [epoch for epoch in range(4) if torch.isin(first[epoch].x, dataset.train_x).all()]
    assert clean == weak
