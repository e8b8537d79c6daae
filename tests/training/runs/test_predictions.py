"""What finished runs predict, against their own counts and plain torch layers; files that are not as they should be."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mlp_lightning.data.sources.torchvision_sets import load_dataset
from mlp_lightning.errors import UserError
from mlp_lightning.training.runs import predictions
from mlp_lightning.training.runs.checkpoint import AtomicCheckpointIO

OPTIONS = {
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
    "trainer.limit_train_batches": 30,
    "trainer.log_every_n_steps": 10,
    "trainer.enable_progress_bar": "false",
    "model.hidden": "[12]",
    "test": "last",
}


@pytest.fixture(scope="module")
def fit(run_cli, tmp_path_factory):
    def fit(*arguments: str) -> Path:
        root = tmp_path_factory.mktemp("run")
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        run_cli("fit", *options, *arguments, "--trainer.default_root_dir", root)
        return next(root.rglob("version_0"))

    return fit


@pytest.fixture(scope="module")
def run(fit) -> Path:
    return fit()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, cache_home: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def errors_counted(run_folder: Path) -> int:
    return json.loads((run_folder / "metrics.json").read_text())["test/errors"]


def test_predictions_are_those_of_plain_torch_layers(run: Path) -> None:
    predicted, targets = predictions.predict_test_set(run)
    data = load_dataset("mnist", None)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    layers = [torch.nn.Linear(784, 12), torch.nn.Linear(12, 10)]
    for k, layer in enumerate(layers):
        layer.load_state_dict({name: state[f"network.layers.{k}.{name}"] for name in ("weight", "bias")})
    with torch.no_grad():
        logits = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])(data.test_x)
    torch.testing.assert_close(predicted, logits.double().log_softmax(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(targets, data.test_y)
    assert predicted.dtype == torch.float64


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--trainer.precision", "64-true"], marks=pytest.mark.slow),
        pytest.param(["--trainer.precision", "bf16-mixed"], marks=pytest.mark.slow),
        pytest.param(["--model.averaging", "ema", "--model.ema_decay", "0.9"], marks=pytest.mark.slow),
        pytest.param(["--model.loss", "mse"], marks=pytest.mark.slow),
        ["--model.norm", "batch", "--model.dropout", "0.2", "--model.averaging", "swa"],
        pytest.param(["--data.validation", "per_batch", "--data.shuffle", "false"], marks=pytest.mark.slow),
    ],
    ids=lambda options: " ".join(options[:2]) or "default",
)
def test_errors_are_those_that_the_run_counted(fit, options: list[str]) -> None:
    run = fit(*options)
    assert predictions.predict_test_set(run).errors == errors_counted(run) > 0


def test_copies_are_those_that_the_run_tested(fit) -> None:
    deform = ("--data.deform.rotation", "20", "--data.deform.elastic", "1", "--data.deform.end_strength", "0.5")
    run = fit(*deform, "--data.test_deformations", "2")
    metrics = json.loads((run / "metrics.json").read_text())
    over_copies = predictions.predict_copies(run)
    assert over_copies is not None
    assert 1 - over_copies.errors / 10_000 == pytest.approx(metrics["test/deformed_accuracy"], abs=1e-9)
    assert over_copies.errors != predictions.predict_test_set(run).errors


def test_no_copies_where_the_run_tested_none(run: Path) -> None:
    assert predictions.predict_copies(run) is None


def test_best_weights_where_the_run_tested_them(fit) -> None:
    # So large a learning rate unlearns what the first epoch learned.
    options = ("--model.optimizer", "sgd", "--model.lr", "5", "--trainer.max_epochs", "6")
    run = fit("--test", "best", *options)
    counted = errors_counted(run)
    assert predictions.predict_test_set(run).errors == counted
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["weights"]["file"] = "last.ckpt"
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert predictions.predict_test_set(run).errors != counted, "best and last are one, which proves nothing"
    # Runs of older versions name no file there: their config tells.
    del metrics["weights"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert predictions.predict_test_set(run).errors == counted
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "test": "last"}))
    assert predictions.predict_test_set(run).errors != counted


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(Path.unlink, r"^the run in .* has no checkpoints/last\.ckpt, ", id="missing"),
        pytest.param(lambda path: path.write_bytes(b"x"), r"^.*last\.ckpt is not a readable checkpoint", id="damaged"),
    ],
)
def test_checkpoint_that_is_none(copy: Path, damage, message: str) -> None:
    damage(copy / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=message):
        predictions.predict_test_set(copy)


def edit(path: Path, change) -> None:
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda checkpoint: checkpoint["hyper_parameters"].update(frobnicate=3),
            "does not fit this version of the trainer: .*frobnicate",
            id="option of another version",
        ),
        pytest.param(
            lambda checkpoint: checkpoint["state_dict"].pop("network.layers.1.bias"),
            "the checkpoint lacks network.layers.1.bias, which does not fit",
            id="weights missing",
        ),
        pytest.param(
            lambda checkpoint: checkpoint["datamodule_hyper_parameters"].update(root="/nowhere"),
            "data.root: got /nowhere, must be an existing folder",
            id="data gone",
        ),
    ],
)
def test_checkpoint_that_does_not_fit(copy: Path, change, message: str) -> None:
    edit(copy / "checkpoints" / "last.ckpt", change)
    with pytest.raises(UserError, match=rf"(?s){message}"):
        predictions.predict_test_set(copy)


def test_data_of_another_width(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(load_dataset("mnist", None), test_x=torch.zeros(3, 6), test_y=torch.zeros(3))
    monkeypatch.setattr(predictions, "_data", lambda dataset, root: other)
    with pytest.raises(UserError, match=r"^the network in .* takes 784 inputs, but mnist has 6 pixels$"):
        predictions.predict_test_set(copy)
