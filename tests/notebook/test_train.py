"""``train`` and its model: the bits of ``fit``, a checkpoint like any other, and every command as a function."""

import inspect
import subprocess
import sys
import xml.dom.minidom

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import mlp_lightning
from mlp_lightning.data import load_dataset
from mlp_lightning.errors import UserError
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.recipes import DEFAULTS

OPTIONS = {"hidden": [7, 5], "epochs": 3, "batch_size": 16, "validation_size": 20, "seed": 3}


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16).reshape(-1, 8, 8), y


@pytest.fixture(scope="module")
def model(digits):
    x, y = digits
    return mlp_lightning.train(x[:1500], y[:1500], hidden=[32, 16], epochs=8, lr=0.003, averaging="ema", ema_decay=0.9)


def test_defaults_are_those_of_the_module():
    parameters = inspect.signature(MLPModule).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == DEFAULTS


@pytest.mark.parametrize("options", [{}, {"averaging": "swa", "dropout": 0.2}, {"class_weights": "balanced"}], ids=str)
def test_a_model_has_the_weights_and_curves_of_fit_to_the_bit(fit, dataset, options):
    run = fit({"seed": 3, **options}, {"seed": 3}, max_epochs=3)
    trained = mlp_lightning.train(dataset.train_x, dataset.train_y, **OPTIONS, **options)
    assert torch.equal(trained.network.flat, run.module.evaluated_network.flat)
    assert trained.history["val/accuracy"] == run.module.curves.history["val/accuracy"]
    assert trained.history["val/loss"][1] == pytest.approx(run.module.curves.history["val/loss"][1], rel=1e-6)


def test_patience_takes_the_best_epoch(dataset):
    trained = mlp_lightning.train(dataset.train_x, dataset.train_y, **OPTIONS | {"epochs": 200}, lr=0.02, patience=3)
    losses = trained.history["val/loss"][1]
    best = int(np.argmin(losses))
    assert len(losses) == best + 4 < 200
    expected = mlp_lightning.train(dataset.train_x, dataset.train_y, **OPTIONS | {"epochs": best + 1}, lr=0.02)
    assert torch.equal(trained.network.flat, expected.network.flat)


def test_a_saved_model_is_a_checkpoint(model, digits, tmp_path):
    path = model.save(tmp_path / "models" / "digits.ckpt")
    loaded = mlp_lightning.load(path)
    assert torch.equal(loaded.network.flat, model.network.flat)
    assert loaded.history == model.history
    assert loaded.predict(digits[0][:3]) == model.predict(digits[0][:3])
    module = MLPModule.load_from_checkpoint(path)
    assert torch.equal(module.evaluated_network.flat, model.network.flat)
    assert not torch.equal(module.network.flat, model.network.flat)
    assert torch.equal(mlp_lightning.load(loaded.save(tmp_path / "again.ckpt")).network.flat, model.network.flat)


def test_it_predicts_names_of_arrays_and_of_frames(model, digits):
    x, y = digits
    found = [prediction.label for prediction in model.predict(x[1500:])]
    assert np.mean(np.array(found) == y[1500:].astype(str)) > 0.8
    rows = np.arange(90)
    frame = pd.DataFrame({"size": rows % 7 / 2, "kind": ["x", "y", "z"] * 30, "is_new": rows % 2 == 0})
    frame.loc[5, "size"] = None
    wanted = np.where(rows % 3 == 0, "no", "yes")
    of_frame = mlp_lightning.train(frame, wanted, hidden=[8], epochs=30, lr=0.01, validation_size=None)
    assert [prediction.label for prediction in of_frame.predict(frame)] == list(wanted)
    assert of_frame.check(frame, wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_it_exports(model, tmp_path, format):
    path = mlp_lightning.export(model, tmp_path / "file", format)
    assert path.stat().st_size > 1000
    with pytest.raises(UserError, match="format: got pickle, must be one of torch, torch_export"):
        model.export(tmp_path / "other", "pickle")


def test_check_proves_its_weights_and_sees_a_wrong_gradient(model, digits, monkeypatch, capsys):
    report = mlp_lightning.check(model)
    assert report
    assert "checks passed" in str(report)
    from mlp_lightning.nn import SoftmaxCrossEntropy

    backward = SoftmaxCrossEntropy.backward
    monkeypatch.setattr(SoftmaxCrossEntropy, "backward", lambda self, *args: backward(self, *args) * 1.01)
    assert not model.check(*(part[:9] for part in digits))
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_fit_is_proven_explained_and_resumed(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--config", "fast.yaml", "--model.hidden", "[8]", "--trainer.enable_progress_bar", "false"]
    run_main("fit", *small, "--trainer.max_epochs", 1)
    loaded = mlp_lightning.load("best")
    data = load_dataset("mnist", None)
    x, y = data.test_x[:40].view(-1, 28, 28), data.test_y[:40]
    assert loaded.check(x, y)
    assert "784-8-10, relu" in str(loaded.explain(x, y))
    run_main("fit", *small, "--trainer.max_epochs", 2, "--ckpt_path", loaded.save("copy.ckpt"))
    resumed = mlp_lightning.load("last").content
    assert resumed["global_step"] == 2 * loaded.content["global_step"]


def test_explain_shows_the_logits_of_its_sample(model, digits, tmp_path):
    x, y = digits
    walk = mlp_lightning.explain(model.save(tmp_path / "m.ckpt"), x[:9], y[:9], sample=4)
    (logits,) = [step.value for step in walk.explanation.steps if step.name == "logits"]
    modules, weights = [], model.network.state_dict()
    for k, (fan_in, fan_out) in enumerate([(64, 32), (32, 16), (16, 10)]):
        linear = torch.nn.Linear(fan_in, fan_out)
        linear.load_state_dict({name: weights[f"layers.{k}.{name}"] for name in ("weight", "bias")})
        modules += [linear, torch.nn.ReLU()]
    expected = torch.nn.Sequential(*modules[:-1])(torch.from_numpy(x[:9]).flatten(1).float())
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-5, atol=1e-5)
    assert "row 4 of its minibatch" in str(walk)
    with pytest.raises(UserError, match="a model from a file keeps no samples; give both"):
        mlp_lightning.explain(tmp_path / "m.ckpt")


def test_jupyter_shows_tables_and_curves_without_scripts(model):
    for text in (model._repr_html_(), model.history._repr_html_(), model.check()._repr_html_()):
        xml.dom.minidom.parseString(f"<div>{text}</div>")
        assert "<script" not in text
    assert model.history._repr_html_().count("<polyline") == 2
    assert "64-32-16-10, relu" in model._repr_html_()
    assert model.explain()._repr_html_().startswith("<iframe srcdoc=")
    assert [line.get_label() for line in model.plot().axes[0].lines][:2] == ["training loss", "validation loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hiden": [8]}, "train: there is no option hiden; did you mean hidden?"),
        ({"epochs": 0}, "epochs: got 0, must be a whole number of at least 1"),
        ({"optimizer": "adamx"}, "model.optimizer: got adamx, must be one of sgd"),
        ({"patience": 2, "validation_size": None}, "patience: got 2, which needs validation_size"),
        ({"validation_size": 2.0}, "data.validation_size: got 2.0, must be a count"),
    ],
    ids=str,
)
def test_a_wrong_option_is_one_line(dataset, options, message):
    with pytest.raises(UserError, match=message) as error:
        mlp_lightning.train(dataset.train_x, dataset.train_y, **options)
    assert len(str(error.value).splitlines()) == 1


def test_samples_and_labels_must_be_as_many(dataset):
    with pytest.raises(UserError, match="x: got 90 samples, but 89 labels in y, must be as many"):
        mlp_lightning.train(dataset.train_x, dataset.train_y[:-1])


def test_it_prints_a_line_an_epoch_where_asked_and_writes_nothing(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mlp_lightning.train(dataset.train_x, dataset.train_y, **OPTIONS)
    assert capsys.readouterr().out == ""
    mlp_lightning.train(dataset.train_x, dataset.train_y, **OPTIONS, verbose=True)
    assert [line[:10] for line in capsys.readouterr().out.splitlines()] == [f"epoch    {k}" for k in (1, 2, 3)]
    assert list(tmp_path.iterdir()) == []


def test_training_imports_neither_lightning_nor_scikit_learn():
    code = (
        "import sys, torch, mlp_lightning\n"
        "mlp_lightning.train(torch.rand(40, 3), torch.arange(40) % 2, epochs=1)\n"
        "print([name for name in ('lightning', 'matplotlib', 'sklearn', 'tensorboard') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
