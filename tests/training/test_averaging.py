"""The average of the weights in a training: what it is, and who uses it."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from mlp_lightning.errors import UserError
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks

EMA = {"optimizer": "sgd", "lr": 0.1, "averaging": "ema", "ema_decay": 0.6}
SWA = {"optimizer": "sgd", "lr": 0.1, "averaging": "swa", "swa_start": 0.5}


def trained_by_torch(run, torch_network, average_of):
    """Autograd and torch's SGD over the same minibatches; ``average_of(network)`` gets each step's weights."""
    network = torch_network(run.start.weights)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    average = average_of(network)
    for step, batch in enumerate(run.start.batches):
        optimizer.zero_grad()
        cross_entropy(network(batch.x), batch.y).backward()
        optimizer.step()
        average(network, step)
    return network


def test_swa_is_torchs_average_over_the_last_half(fit, torch_network, named_weights):
    run = fit(SWA)
    half = len(run.start.batches) // 2

    def average_of(network):
        model = AveragedModel(network)
        kept.append(model)
        return lambda network, step: model.update_parameters(network) if step >= half else None

    kept = []
    network = trained_by_torch(run, torch_network, average_of)
    expected = named_weights(kept[0].module)
    found = run.module.averaged_network.state_dict()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(run.module.network.state_dict(), named_weights(network), rtol=1e-5, atol=1e-6)


def test_the_average_never_enters_the_training(fit):
    plain = {name: value for name, value in EMA.items() if name not in ("averaging", "ema_decay")}
    torch.testing.assert_close(
        fit(EMA).module.network.state_dict(), fit(plain).module.network.state_dict(), rtol=0, atol=0
    )


def test_both_are_evaluated(fit, torch_network, dataset):
    run = fit(EMA)
    run.trainer.test(run.module, run.data, verbose=False)
    for prefix, network in (("", run.module.averaged_network), ("raw_", run.module.network)):
        logits = torch_network(network.state_dict())(dataset.test_x).detach()
        correct = float((logits.argmax(1) == dataset.test_y).float().mean())
        assert run.module.results[f"test/{prefix}accuracy"] == pytest.approx(correct)
        loss = float(cross_entropy(logits, dataset.test_y))
        assert run.module.results[f"test/{prefix}loss"] == pytest.approx(loss, rel=1e-5)
    assert run.module.results["test/loss"] != run.module.results["test/raw_loss"]
    assert set(run.module.curves.history) >= {"val/accuracy", "val/raw_accuracy"}


def test_a_checkpoint_holds_both(fit):
    run = fit(EMA, callbacks=checkpoint_callbacks(), enable_checkpointing=True)
    state = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    kept = {name.partition(".")[0] for name in state}
    assert kept == {"network", "averaged_network"}
    torch.testing.assert_close(
        state["averaged_network.layers.0.weight"], run.module.averaged_network.layers[0].weight, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("model", "message"),
    {
        "decay": ({"averaging": "ema", "ema_decay": 1.0}, r"^model\.ema_decay: got 1\.0, must be in \[0, 1\)"),
        "start": ({"averaging": "swa", "swa_start": -0.1}, r"^model\.swa_start: got -0\.1, must be in \[0, 1\)"),
        "another's": ({"averaging": "swa", "ema_decay": 0.9}, r"^model\.ema_decay: got 0\.9, but averaging swa does"),
        "none's": ({"swa_start": 0.5}, r"^model\.swa_start: got 0\.5, but averaging none does not take it"),
    }.values(),
    ids=["decay", "start", "another's", "none's"],
)
def test_bad_options(fit, model, message):
    with pytest.raises(UserError, match=message):
        fit(model)


def test_swa_needs_an_end(fit):
    with pytest.raises(UserError, match=r"^model\.averaging: swa needs an end"):
        fit(SWA, max_epochs=-1, max_time={"seconds": 1})
