"""A classifier with the interface of scikit-learn's."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import column_or_1d
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.data.classes import balanced_weights
from mlp_lightning.epochs import Record
from mlp_lightning.errors import UserError
from mlp_lightning.nn.losses import Loss, MeanSquaredError, Reduction, SoftmaxCrossEntropy, WeightedSquaredError
from mlp_lightning.nn.norm import NormName
from mlp_lightning.sklearn.base import Callback, Estimator, keep
from mlp_lightning.sklearn.samples import Samples
from mlp_lightning.training.names import ActivationName, AveragingName, InitName, OptimizerName, ScheduleName
from mlp_lightning.training.options import make_loss


class MLPClassifier(ClassifierMixin, Estimator):
    """A multilayer perceptron for classes.

    Parameters that are not explained here are options of the command ``fit`` (``model.…``), with its meaning and
    defaults. ``rmsprop_alpha`` is its ``alpha``.

    Args:
        hidden: widths of the hidden layers.
        class_weights: one positive weight for each of ``classes_``, or ``balanced``.
        epochs: 100 where neither this nor ``max_iter`` is given.
        batch_size: samples in a minibatch.
        shuffle: whether each epoch has an order of its own.
        patience: ends the training when ``val/loss`` has not improved for so many epochs, and takes the weights of the
            best one; None for never.
        validation_fraction: the share of the training samples that validates where ``fit`` is given none; None for a
            tenth with ``patience``, else for none.
        warm_start: whether ``fit`` continues with the weights of the last one.
        random_state: the seed of weights, order and masks; None for another one in each training.
        verbose: whether a line is printed after each epoch.
        callbacks: called with the estimator and a dict of losses and scores after each epoch; one that returns True
            ends the training.
        log_dir: a folder to write the curves into, for TensorBoard.
        engine: as ``--trainer.engine``.
        precision: ``auto`` is ``64-true`` for up to 10,000 samples in all epochs of ``fit``, else ``32-true``.
        hidden_layer_sizes: scikit-learn's name of ``hidden``, (100,) where neither is given.
        learning_rate_init: of ``lr``, 0.001 likewise.
        max_iter: of ``epochs``.
        alpha: scikit-learn's L2 penalty, a ``weight_decay`` of alpha / batch_size without the biases.

    Attributes:
        classes_: the K classes, sorted.
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        hidden: Sequence[int] | int | None = None,
        activation: ActivationName = "relu",
        *,
        init: InitName = "he_normal",
        norm: NormName = "none",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        loss: Literal["cross_entropy", "mse"] = "cross_entropy",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        optimizer: OptimizerName = "adam",
        lr: float | None = None,
        momentum: float | None = None,
        dampening: float | None = None,
        nesterov: bool | None = None,
        weight_decay: float | None = None,
        decay_biases: bool | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        eps: float | None = None,
        amsgrad: bool | None = None,
        rmsprop_alpha: float | None = None,
        centered: bool | None = None,
        momentum_decay: float | None = None,
        decoupled_weight_decay: bool | None = None,
        ns_steps: int | None = None,
        schedule: ScheduleName = "constant",
        warmup_epochs: float = 0.0,
        step_epochs: float | None = None,
        gamma: float | None = None,
        final_factor: float | None = None,
        pct_start: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        averaging: AveragingName = "none",
        ema_decay: float | None = None,
        swa_start: float | None = None,
        vat: float = 0.0,
        vat_eps: float | None = None,
        vat_xi: float | None = None,
        vat_iterations: int | None = None,
        nonfinite: Literal["stop", "skip"] = "stop",
        reduction: Reduction = "mean",
        epochs: int | None = None,
        batch_size: int = 64,
        shuffle: bool = True,
        patience: int | None = None,
        validation_fraction: float | None = None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        callbacks: Sequence[Callback] | None = None,
        log_dir: str | None = None,
        engine: str = "auto",
        precision: Literal["auto", "32-true", "64-true"] = "auto",
        hidden_layer_sizes: Sequence[int] | int | None = None,
        learning_rate_init: float | None = None,
        max_iter: int | None = None,
        alpha: float | None = None,
    ) -> None:
        keep(self, locals())

    @property
    def _width(self) -> int:
        return len(self.classes_)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train on each sample once, from where the training stands; its rule and its numbers of steps continue.

        Args:
            X: as in ``fit``.
            y: likewise.
            sample_weight: likewise.
            classes: all that there will be, which the first call needs.
        """
        if not hasattr(self, "_loop"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self.classes_ = unique_labels(classes)
            self._awaits_classes = True
        elif classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
            raise ValueError(f"classes: got {classes}, must be those of the first call: {self.classes_}")
        return self._partial_fit(X, y, sample_weight)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of each class ``(N, K)``, softmax of the outputs, also for a network trained with ``mse``."""
        return torch.softmax(torch.from_numpy(self._outputs(X)), 1).numpy()

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Its logarithm."""
        return torch.log_softmax(torch.from_numpy(self._outputs(X)), 1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each sample ``(N,)``."""
        best = self._outputs(X).argmax(1)
        return self.classes_[best]

    def _learn(self, samples: Samples, *, again: bool) -> NDArray[Any]:
        y = column_or_1d(samples.y, warn=True)
        check_classification_targets(y)
        if not (again or self.__dict__.pop("_awaits_classes", False)):
            self.classes_, numbers = np.unique(y, return_inverse=True)
            return numbers
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise UserError(f"y: got the class {unknown[0]}, must be one of those so far: {self.classes_}")
        return np.searchsorted(self.classes_, y)

    def _make_loss(self, options: Mapping[str, Any], samples: Samples) -> Loss:
        given = options["class_weights"]
        if isinstance(given, str):
            if given != "balanced":
                raise UserError(f"class_weights: got {given}, must be balanced or a weight for each class")
            counts = torch.from_numpy(np.bincount(samples.y, samples.weights, minlength=self._width))
            given = balanced_weights(counts, [str(name) for name in self.classes_])
        elif given is not None and len(given) != self._width:
            raise UserError(f"class_weights: got {len(given)} weights, must be {self._width}, one for each class")
        loss = make_loss(options["loss"], "sum", label_smoothing=options["label_smoothing"], class_weights=given)
        if samples.weights is None:
            return loss
        if isinstance(loss, MeanSquaredError):
            return WeightedSquaredError("sum")
        if loss.class_weights is None:
            loss.class_weights = torch.ones(self._width)
        return loss

    def _targets(self, samples: Samples, loss: Loss, dtype: torch.dtype) -> Tensor:
        classes = torch.from_numpy(samples.y)
        if samples.weights is None and not isinstance(loss, WeightedSquaredError):
            return classes
        ones, weights = F.one_hot(classes, self._width), samples.column_of_weights
        rows = ones * weights if isinstance(loss, SoftmaxCrossEntropy) else torch.cat([ones, weights], 1)
        return rows.to(dtype)

    def _judge(self, outputs: Tensor, y: NDArray[Any]) -> Record:
        return {"val/accuracy": float((outputs.argmax(1).numpy() == y).mean())}
