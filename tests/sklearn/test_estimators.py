"""The estimators: trained as ``fit`` trains, weighted as repeated rows, and at home in scikit-learn's tools."""

import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn.neural_network
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlp_lightning.data import holdout
from mlp_lightning.sklearn import MLPClassifier, MLPRegressor
from mlp_lightning.sklearn.base import Estimator
from mlp_lightning.sklearn.parameters import ALIASES, OF_CLASSES, RENAMED
from mlp_lightning.training.module import MLPModule

COUNTS = np.array([2, 0, 1, 3, 1, 1, 4, 0, 2, 1, 1, 3])
BOTH = pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x / 16, y


@pytest.fixture(scope="module")
def table():
    """Twelve samples of three classes, and two numbers for each."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(12, 5))
    return x, np.arange(12) % 3, x[:, :2] @ draws.normal(size=(2, 2)) + 7


def weights_of(estimator: Estimator) -> torch.Tensor:
    return estimator.network_.flat.detach()


def small(kind, **parameters):
    return kind(**{"hidden": [8, 6], "epochs": 4, "batch_size": 5, "random_state": 1, **parameters})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "schedule": "cosine"},
        {"activation": "gelu", "dropout": 0.2, "averaging": "ema", "ema_decay": 0.9},
        {"class_weights": "balanced", "label_smoothing": 0.1, "norm": "batch"},
    ],
    ids=["adam", "momentum-cosine", "gelu-dropout-ema", "balanced"],
)
def test_a_fit_is_lightnings_trainers_to_the_bit(fit, dataset, options):
    run = fit({"seed": 3, **options}, {"seed": 3, "batch_size": 16}, max_epochs=3)
    trains, validates = (rows.numpy() for rows in holdout(len(dataset.train_y), 20, 3))
    x, y = dataset.train_x.numpy(), dataset.train_y.numpy()
    ours = MLPClassifier([7, 5], epochs=3, batch_size=16, random_state=3, precision="32-true", **options)
    ours.fit(x[trains], y[trains], eval_set=(x[validates], y[validates]))
    assert torch.equal(weights_of(ours), run.module.evaluated_network.flat)
    assert ours.history_["val/accuracy"] == run.module.curves.history["val/accuracy"][1]
    assert ours.history_["val/loss"] == pytest.approx(run.module.curves.history["val/loss"][1], rel=1e-6)


def test_defaults_are_those_of_the_module():
    module, own = inspect.signature(MLPModule).parameters, inspect.signature(MLPClassifier).parameters
    skipped = {"shard_optimizer", "overlap_reduction", "seed", *(name for name, _ in ALIASES.values())}
    names = {name: next((ours for ours, theirs in RENAMED.items() if theirs == name), name) for name in module}
    for name in module.keys() - skipped:
        assert own[names[name]].default == module[name].default, name
    of_regressor = inspect.signature(MLPRegressor).parameters
    assert of_regressor.keys() == own.keys() - OF_CLASSES.keys()
    assert all(of_regressor[name].default == own[name].default for name in of_regressor)
    assert {name: module[name].default for name in OF_CLASSES if name != "loss"} == {
        name: value for name, value in OF_CLASSES.items() if name != "loss"
    }


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MLPClassifier, {}),
        (MLPClassifier, {"label_smoothing": 0.2, "class_weights": [1.0, 3.0, 0.5]}),
        (MLPClassifier, {"class_weights": "balanced", "reduction": "sum", "lr": 0.001}),
        (MLPClassifier, {"loss": "mse", "norm": "layer"}),
        (MLPRegressor, {}),
        (MLPRegressor, {"reduction": "sum", "optimizer": "sgd"}),
    ],
)
def test_weights_equal_repeated_rows(table, kind, options):
    x, classes, numbers = table
    y = classes if kind is MLPClassifier else numbers
    # The whole set is a minibatch, of which the order plays no part.
    model = small(kind, batch_size=100, epochs=20, precision="64-true", **options)
    weighted = clone(model).fit(x, y, sample_weight=COUNTS)
    repeated = clone(model).fit(x.repeat(COUNTS, 0), y.repeat(COUNTS, 0))
    torch.testing.assert_close(weights_of(weighted), weights_of(repeated), rtol=1e-9, atol=1e-11)
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-9)
    assert not torch.equal(weights_of(weighted), weights_of(clone(model).fit(x, y)))


@BOTH
def test_a_weight_of_zero_leaves_a_row_out(table, kind):
    x, y, _ = table
    model = small(kind)
    some = np.arange(12) < 9
    weights = weights_of(clone(model).fit(x, y, sample_weight=some * 2.0))
    assert torch.equal(weights, weights_of(clone(model).fit(x[some], y[some])))


@BOTH
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"hidden_layer_sizes": (9, 4)}, {"hidden": [9, 4]}),
        ({"hidden_layer_sizes": 9}, {"hidden": [9]}),
        ({"learning_rate_init": 0.02}, {"lr": 0.02}),
        ({"max_iter": 3}, {"epochs": 3}),
        ({"alpha": 0.5}, {"weight_decay": 0.1, "decay_biases": False}),
        ({"alpha": 0.0}, {}),
    ],
    ids=str,
)
def test_scikit_learns_names_mean_the_same(table, kind, theirs, ours):
    x, y, _ = table
    base = {"batch_size": 5, "random_state": 1}
    if "epochs" not in ours:
        base["epochs"] = 4
    fitted = [clone(kind(**base, **names)).fit(x, y) for names in (theirs, ours)]
    assert torch.equal(*map(weights_of, fitted))
    assert fitted[0].get_params() == {**kind().get_params(), **base, **theirs}


@BOTH
@pytest.mark.parametrize("alias", ALIASES)
def test_both_names_of_one_option_are_refused(table, kind, alias):
    x, y, _ = table
    name = ALIASES[alias][0]
    value = 3 if name in ("hidden", "epochs") else 0.1
    with pytest.raises(
        ValueError, match=f"^{alias}: got {value}, but {name} is {value}: they are one option, give one"
    ):
        kind(**{alias: value, name: value}).fit(x, y)


def test_alpha_is_scikit_learns_penalty(table):
    x, y, _ = table
    common = {"hidden_layer_sizes": (4,), "alpha": 5.0, "batch_size": 12, "shuffle": False, "random_state": 0}
    theirs = sklearn.neural_network.MLPClassifier(solver="sgd", momentum=0, learning_rate_init=0.1, **common)
    ours = MLPClassifier(optimizer="sgd", lr=0.0, **common)
    for estimator in (theirs, ours):
        estimator.partial_fit(x, y, classes=[0, 1, 2])
    parts = [part.T for part in theirs.coefs_] + theirs.intercepts_
    ours.network_.flat.copy_(torch.cat([torch.from_numpy(part).reshape(-1) for part in parts]))
    ours.set_params(lr=0.1)
    for _ in range(3):
        for estimator in (theirs, ours):
            estimator.partial_fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-6)


@BOTH
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_copies_predict_and_continue_to_the_bit(table, tmp_path, kind, precision):
    x, y, _ = table
    original = small(kind, precision=precision, dropout=0.1, averaging="ema").fit(x, y)
    joblib.dump(original, tmp_path / "model")
    copies = [pickle.loads(pickle.dumps(original)), joblib.load(tmp_path / "model")]
    for copy in copies:
        assert np.array_equal(copy.predict(x), original.predict(x))
        assert torch.equal(weights_of(copy), weights_of(original))
    for estimator in (original, *copies):
        estimator.partial_fit(x, y).partial_fit(x, y)
    for copy in copies:
        assert torch.equal(weights_of(copy), weights_of(original))
        assert copy.history_ == original.history_


@BOTH
def test_partial_fits_are_the_epochs_of_a_fit(table, kind):
    x, y, _ = table
    whole = small(kind, precision="32-true", dropout=0.1).fit(x, y)
    parts = small(kind, dropout=0.1)
    for k in range(4):
        parts.partial_fit(x, y, **({"classes": [0, 1, 2]} if kind is MLPClassifier and k == 0 else {}))
    assert torch.equal(weights_of(parts), weights_of(whole))
    assert parts.history_ == whole.history_


def test_the_first_partial_fit_needs_classes_and_later_ones_keep_them(table):
    x, y, _ = table
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        MLPClassifier().partial_fit(x, y)
    model = MLPClassifier([4]).partial_fit(x[y < 2], y[y < 2], classes=[0, 1, 2])
    assert model.predict_proba(x).shape == (12, 3)
    with pytest.raises(ValueError, match="y: got the class 3, must be one of those so far"):
        model.partial_fit(x, y + 1)
    with pytest.raises(ValueError, match="classes: got"):
        model.partial_fit(x, y, classes=[0, 1])


@BOTH
def test_a_warm_start_continues_with_the_weights(table, kind):
    x, y, _ = table
    model = small(kind, warm_start=True, lr=0.0).fit(x, y)
    first = weights_of(model).clone()
    model.set_params(random_state=7).fit(x, y)
    assert torch.equal(weights_of(model), first)
    assert model.n_iter_ == 4
    assert model.history_["epoch"] == [1, 2, 3, 4] * 2
    with pytest.raises(ValueError, match=r"hidden: got \[3\], but the layers so far are \[8, 6\]"):
        model.set_params(hidden=[3]).fit(x, y)
    assert not torch.equal(weights_of(model.set_params(hidden=[8, 6], warm_start=False).fit(x, y)), first)


@BOTH
def test_frames_and_sparse_matrices_are_arrays(table, kind):
    x, y, _ = table
    expected = small(kind).fit(x, y)
    names = [f"column {k}" for k in range(5)]
    of_frame = small(kind).fit(pd.DataFrame(x, columns=names), pd.Series(y))
    assert list(of_frame.feature_names_in_) == names
    assert np.array_equal(of_frame.predict(pd.DataFrame(x, columns=names)), expected.predict(x))
    for matrix in (scipy.sparse.csr_matrix, scipy.sparse.csc_array):
        of_sparse = small(kind).fit(matrix(x), y)
        assert torch.equal(weights_of(of_sparse), weights_of(expected))
        assert np.array_equal(of_sparse.predict(matrix(x)), expected.predict(x))


def test_classes_keep_their_names_and_probabilities_their_order(table):
    x, y, _ = table
    names = np.array(["west", "east", "north"])
    model = small(MLPClassifier, epochs=200, lr=0.01).fit(x, names[y])
    assert list(model.classes_) == ["east", "north", "west"]
    shares = model.predict_proba(x)
    assert shares.shape == (12, 3)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(model.predict_log_proba(x), np.log(shares), rtol=1e-9)
    assert np.array_equal(model.predict(x), model.classes_[shares.argmax(1)])
    assert model.score(x, names[y]) == 1


def test_a_regressor_answers_in_the_unit_of_its_targets(table):
    x, _, y = table
    model = small(MLPRegressor, epochs=300, lr=0.01)
    found = clone(model).fit(x, y)
    assert found.predict(x).shape == (12, 2)
    assert found.score(x, y) > 0.9
    one = clone(model).fit(x, y[:, 0])
    assert one.predict(x).shape == (12,)
    larger = clone(model).fit(x, 1000 * y[:, 0] - 5)
    np.testing.assert_allclose(larger.predict(x), 1000 * one.predict(x) - 5, rtol=1e-6)
    assert np.array_equal(clone(model).fit(x, np.full(12, 3.5)).predict(x).round(1), np.full(12, 3.5))


def test_it_learns_digits_and_diabetes(digits):
    x, y = digits
    assert MLPClassifier(epochs=30, random_state=0).fit(x[:1200], y[:1200]).score(x[1200:], y[1200:]) > 0.92
    x, y = load_diabetes(return_X_y=True)
    model = make_pipeline(StandardScaler(), MLPRegressor([32], epochs=40, lr=0.003, random_state=0))
    assert cross_val_score(model, x, y, scoring="r2").mean() > 0.4


def test_patience_keeps_the_best_epoch(table):
    x, y, _ = table
    model = small(MLPClassifier, epochs=500, patience=7, lr=0.02)
    others, wanted = -x, (y + 1) % 3
    model.fit(x, y, eval_set=(others, wanted))
    losses = model.history_["val/loss"]
    best = int(np.argmin(losses))
    assert model.n_iter_ == len(losses) == best + 8 < 500
    expected = small(MLPClassifier, epochs=best + 1, lr=0.02, precision="64-true").fit(x, y)
    assert torch.equal(weights_of(model), weights_of(expected))
    shares = model.predict_proba(others)[np.arange(12), wanted]
    assert -np.log(shares).mean() == pytest.approx(losses[best], rel=1e-6)


@BOTH
def test_patience_alone_sets_a_tenth_apart(digits, kind):
    x, y = digits
    model = small(kind, patience=1, validation_fraction=None, epochs=2, batch_size=100).fit(x[:300], y[:300])
    assert model.history_["step"][0] == 3
    assert len(model.history_["val/loss"]) == model.n_iter_


def test_callbacks_see_every_epoch_and_may_end_the_training(table):
    x, y, _ = table
    seen = []

    def callback(estimator, record):
        seen.append((estimator.n_iter_, record["train/loss"], estimator.score(x, y)))
        return len(seen) == 3

    model = small(MLPClassifier, callbacks=[callback], epochs=10).fit(x, y)
    assert model.n_iter_ == 3
    assert [loss for _, loss, _ in seen] == model.history_["train/loss"]
    assert seen[-1][2] == model.score(x, y)


def test_it_prints_and_writes_nothing_unless_asked(table, tmp_path, monkeypatch, capfd):
    x, y, _ = table
    monkeypatch.chdir(tmp_path)
    small(MLPClassifier).fit(x, y, eval_set=(x, y)).predict(x)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    model = small(MLPClassifier, verbose=True, log_dir="curves").fit(x, y, eval_set=(x, y))
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[3].startswith(f"epoch    4  train/loss {model.loss_:.4f}  val/loss ")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator("curves").Reload()
    assert [event.step for event in events.Scalars("train/loss")] == model.history_["step"]
    assert [event.value for event in events.Scalars("val/loss")] == pytest.approx(model.history_["val/loss"])


def test_scikit_learns_tools_take_it(digits):
    x, y = digits[0][:400], digits[1][:400]
    model = make_pipeline(StandardScaler(), MLPClassifier(epochs=20, random_state=0))
    assert cross_val_score(model, x, y, cv=3).min() > 0.7
    search = GridSearchCV(model, {"mlpclassifier__hidden_layer_sizes": [(8,), (64,)]}, cv=2, n_jobs=2).fit(x, y)
    assert search.best_params_ == {"mlpclassifier__hidden_layer_sizes": (64,)}
    calibrated = CalibratedClassifierCV(MLPClassifier(epochs=40, random_state=0), cv=2).fit(x, y)
    assert calibrated.score(x, y) > 0.85


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden": [0]}, r"hidden: got \[0\], every width must be at least 1"),
        ({"hidden": [2.5]}, r"hidden: got \[2.5\], must be whole numbers"),
        ({"dropout": 1.0}, r"dropout: got 1.0, must be in \[0, 1\)"),
        ({"dropout": "a"}, "^dropout: got 'a', must be a number"),
        ({"activation": "relux"}, "^activation: got relux, must be one of sigmoid, tanh"),
        ({"optimizer": "adamx"}, "optimizer: got adamx, must be one of sgd"),
        ({"optimizer": "sgd", "beta1": 0.9}, "beta1: got 0.9, but sgd does not take it; it takes momentum"),
        ({"lr": -1.0}, "lr must be"),
        ({"schedule": "linear"}, "schedule: got linear, must be one of constant"),
        ({"epochs": 0}, "epochs: got 0, must be a whole number of at least 1"),
        ({"batch_size": 2.0}, "batch_size: got 2.0, must be a whole number of at least 1"),
        ({"patience": 0}, "patience: got 0, must be a whole number of at least 1"),
        ({"validation_fraction": 1.0}, r"validation_fraction: got 1.0, must be in \(0, 1\)"),
        ({"precision": "16-true"}, "precision: got 16-true, must be one of auto, 32-true, 64-true"),
        ({"engine": "fast"}, "^engine: got fast, must be auto or one of"),
        ({"alpha": -1}, "alpha: got -1, must be zero or more and finite"),
        ({"alpha": 0.1, "optimizer": "adamw"}, "alpha: got 0.1, but adamw decouples its decay; use weight_decay"),
        ({"random_state": -1}, "random_state: got -1, must be from 0 to 4294967295"),
        ({"class_weights": [1.0]}, "class_weights: got 1 weights, must be 3, one for each class"),
        ({"class_weights": "even"}, "class_weights: got even, must be balanced or a weight for each class"),
        ({"optimizer": "sgd", "lr": 1e30}, "is not finite.*; try a smaller lr or clip_norm"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_one_line(table, parameters, message):
    x, y, _ = table
    with pytest.raises(ValueError, match=message) as error:
        MLPClassifier(**{"epochs": 20, **parameters}).fit(x, y)
    assert len(str(error.value).splitlines()) == 1


def test_an_eval_set_is_a_pair(table):
    x, y, _ = table
    with pytest.raises(ValueError, match=r"eval_set: got a list, must be a tuple \(X, y\)"):
        MLPClassifier().fit(x, y, eval_set=[(x, y)])


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"averaging": "swa"}], ids=str)
def test_partial_fit_refuses_what_needs_an_end(table, options):
    x, y, _ = table
    with pytest.raises(ValueError, match="which needs an end, but partial_fit has none"):
        MLPRegressor(**options).partial_fit(x, y)


@pytest.mark.parametrize("weights", [np.zeros(12), -np.ones(12)], ids=["zeros", "negative"])
def test_weights_must_count(table, weights):
    x, y, _ = table
    with pytest.raises(ValueError, match=r"[Ss]ample.?weight"):
        MLPClassifier().fit(x, y, sample_weight=weights)


@pytest.mark.parametrize("compiler", [None, ""], ids=["compiler", "no-compiler"])
def test_a_fit_imports_no_lightning_and_nothing_that_draws(tmp_path, compiler):
    code = (
        "import sys, numpy as np\n"
        "from mlp_lightning.sklearn import MLPClassifier\n"
        "x = np.random.rand(200, 4)\n"
        "MLPClassifier().fit(x, x[:, 0] > 0.5).predict(x)\n"
        "heavy = 'lightning', 'tensorboard', 'matplotlib', 'torchmetrics', 'torchvision', 'torch._dynamo'\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = os.environ | ({} if compiler is None else {"CC": compiler})
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_scikit_learn_it_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None\nimport mlp_lightning, mlp_lightning.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "mlp_lightning.sklearn needs scikit-learn: pip install 'mlp-lightning[sklearn]'" in done.stderr
