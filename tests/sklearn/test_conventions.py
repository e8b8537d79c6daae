"""Every check that scikit-learn has for an estimator; none is expected to fail."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from mlp_lightning.sklearn import MLPClassifier, MLPRegressor


@pytest.mark.filterwarnings("default")
@parametrize_with_checks([MLPClassifier(), MLPRegressor()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)
