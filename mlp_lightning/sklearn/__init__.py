"""Estimators for scikit-learn: ``fit(X, y)`` in memory, by the engines and the steps of the command ``fit``."""

from contextlib import suppress

from mlp_lightning.engines.native.compile import compilation
from mlp_lightning.errors import UserError

with suppress(UserError):
    # While the imports that follow take their time.
    compilation()

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "mlp_lightning.sklearn needs scikit-learn: pip install 'mlp-lightning[sklearn]'", name=error.name
    ) from error

from mlp_lightning.sklearn.classifier import MLPClassifier
from mlp_lightning.sklearn.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
