"""What scikit-learn's own tests ask of its multilayer perceptrons, where the same is meant here."""

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, load_iris, make_regression
from sklearn.metrics import roc_auc_score

from mlp_lightning.sklearn import MLPClassifier, MLPRegressor

BOTH = pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x / 16, y


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def test_a_larger_penalty_leaves_smaller_weights(iris):
    norms = [
        np.linalg.norm(MLPClassifier((10,), alpha=alpha, random_state=0).fit(*iris).coefs_[0]) for alpha in (0, 1, 100)
    ]
    assert norms[0] > norms[1] > norms[2]


@BOTH
def test_weights_are_laid_out_as_scikit_learns(iris, kind):
    model = kind((5, 4), epochs=2).fit(*iris)
    outputs = 3 if kind is MLPClassifier else 1
    assert [part.shape for part in model.coefs_] == [(4, 5), (5, 4), (4, outputs)]
    a = iris[0].astype(model.coefs_[0].dtype)
    for weight, bias in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        a = np.maximum(a @ weight + bias, 0)
    found = a @ model.coefs_[-1] + model.intercepts_[-1]
    if kind is MLPClassifier:
        assert np.array_equal(found.argmax(1), model.predict(iris[0]))
    else:
        expected = found[:, 0] * model.target_scale_ + model.target_mean_
        np.testing.assert_allclose(model.predict(iris[0]), expected, rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 10])
def test_epochs_of_partial_fits_learn_digits(digits, classes):
    x, y = (part[digits[1] < classes][:200] for part in digits)
    model = MLPClassifier(optimizer="sgd", random_state=1, alpha=1e-5, lr=0.2)
    whole = MLPClassifier(optimizer="sgd", random_state=1, alpha=1e-5, lr=0.2, precision="32-true").fit(x, y)
    for _ in range(100):
        model.partial_fit(x, y, classes=np.unique(y))
    assert np.array_equal(model.predict(x), whole.predict(x))
    assert model.score(x, y) > 0.95


def test_probabilities_of_two_classes_rank_them(digits):
    x, y = (part[digits[1] < 2][:50] for part in digits)
    shares = MLPClassifier(5, activation="sigmoid", random_state=1, lr=0.01).fit(x, y).predict_proba(x)
    assert shares.shape == (50, 2)
    assert roc_auc_score(y, shares[:, 1]) == 1


@BOTH
def test_shuffling_alone_changes_the_weights(kind):
    x, y = make_regression(n_samples=50, n_features=5, random_state=0)
    y = y > 0
    fits = [kind(3, epochs=1, batch_size=1, random_state=0, shuffle=s).fit(x, y) for s in (True, True, False, False)]
    first = [model.coefs_[0] for model in fits]
    assert np.array_equal(first[0], first[1])
    assert np.array_equal(first[2], first[3])
    assert not np.array_equal(first[0], first[2])


def test_classes_of_texts_stop_early_too(iris):
    x, y = iris
    model = MLPClassifier(10, patience=3, epochs=400, lr=0.02, random_state=0).fit(x, np.array(["a", "b", "c"])[y])
    assert model.n_iter_ < 400
    assert model.score(x, np.array(["a", "b", "c"])[y]) > 0.9


@BOTH
def test_names_of_features_are_kept_without_a_warning(iris, kind):
    frame = pd.DataFrame(iris[0], columns=list("abcd"))
    model = kind(4, epochs=3, patience=2, random_state=0).fit(frame, iris[1])
    assert list(model.feature_names_in_) == list("abcd")
    model.partial_fit(frame, iris[1])
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))


@BOTH
def test_the_dtype_of_samples_hardly_matters(digits, kind):
    x, y = digits[0][:300], digits[1][:300]
    found = [kind((5, 3), random_state=1, epochs=50).fit(x.astype(dtype), y).predict(x) for dtype in ("f4", "f8")]
    assert np.mean(np.isclose(found[0], found[1], rtol=1e-2)) > 0.98


@BOTH
def test_even_weights_are_none(iris, kind):
    fits = [
        kind(4, patience=2, random_state=0).fit(*iris, sample_weight=weight) for weight in (None, np.full(150, 3.0))
    ]
    assert np.array_equal(fits[0].coefs_[0], fits[1].coefs_[0])


def test_a_loaded_model_learns_another_target(tmp_path):
    model = MLPRegressor(42, random_state=42, lr=0.01, epochs=200).fit([[2]], [4])
    assert model.predict([[2]]) == pytest.approx([4], abs=0.01)
    joblib.dump(model, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model")
    for _ in range(400):
        loaded.partial_fit([[2]], [1])
    assert loaded.predict([[2]]) == pytest.approx([1], abs=0.01)
    assert model.predict([[2]]) == pytest.approx([4], abs=0.01)


def test_two_samples_can_stop_early():
    model = MLPRegressor(4, patience=2, epochs=20, random_state=0).fit([[0.0], [1.0]], [0.0, 1.0])
    assert "val/r2" not in model.history_
    with pytest.raises(ValueError, match="leaves some of the 1 samples to train"):
        model.fit([[0.0]], [0.0])


def test_numbers_that_are_too_large_end_in_one_line():
    x = np.finfo(np.float64).max * np.random.default_rng(0).uniform(size=(10, 2))
    with pytest.raises(ValueError, match="is not finite"):
        MLPRegressor().fit(x, np.arange(10))
