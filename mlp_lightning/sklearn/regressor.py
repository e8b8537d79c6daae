"""A regressor with the interface of scikit-learn's."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from torch import Tensor

from mlp_lightning.epochs import Record
from mlp_lightning.nn.losses import Loss, MeanSquaredError, Reduction, WeightedSquaredError
from mlp_lightning.nn.norm import NormName
from mlp_lightning.sklearn.base import Callback, Estimator, keep
from mlp_lightning.sklearn.samples import Samples
from mlp_lightning.training.names import ActivationName, AveragingName, InitName, OptimizerName, ScheduleName


class MLPRegressor(RegressorMixin, Estimator):
    """A multilayer perceptron for one number or several, trained by their squared error.

    The network learns targets with mean 0 and variance 1; losses are of these, predictions and scores are in the unit
    of the targets. Parameters that are not explained here are options of the command ``fit`` (``model.…``), with its
    meaning and defaults. ``rmsprop_alpha`` is its ``alpha``.

    Args:
        hidden: widths of the hidden layers.
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
        target_mean_: of the targets ``(K,)``, learned by ``fit`` or the first ``partial_fit``.
        target_scale_: their standard deviation; 1 where they are all the same.
    """

    target_mean_: NDArray[np.float64]
    target_scale_: NDArray[np.float64]

    def __init__(
        self,
        hidden: Sequence[int] | int | None = None,
        activation: ActivationName = "relu",
        *,
        init: InitName = "he_normal",
        norm: NormName = "none",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
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
        return len(self.target_mean_)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on each sample once, from where the training stands; its rule and its numbers of steps continue."""
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The predicted numbers ``(N,)``, or ``(N, K)`` where the targets were so."""
        found = self._outputs(X) * self.target_scale_ + self.target_mean_
        return found if self._is_wide else found[:, 0]

    def _learn(self, samples: Samples, *, again: bool) -> NDArray[Any]:
        y, weights = samples.y, samples.weights
        values = y.astype(np.float64).reshape(len(y), -1)
        if not again:
            self._is_wide = y.ndim == 2
            self.target_mean_ = np.average(values, 0, weights)
            scale = np.sqrt(np.average((values - self.target_mean_) ** 2, 0, weights))
            self.target_scale_ = np.where(scale > 0, scale, 1.0)
        elif values.shape[1] != self._width:
            raise ValueError(f"y: got {values.shape[1]} targets a sample, must be {self._width}")
        return (values - self.target_mean_) / self.target_scale_

    def _make_loss(self, options: Mapping[str, Any], samples: Samples) -> Loss:
        return MeanSquaredError("sum") if samples.weights is None else WeightedSquaredError("sum")

    def _targets(self, samples: Samples, loss: Loss, dtype: torch.dtype) -> Tensor:
        values = torch.from_numpy(samples.y)
        if isinstance(loss, WeightedSquaredError):
            values = torch.cat([values, samples.column_of_weights], 1)
        return values.to(dtype)

    def _judge(self, outputs: Tensor, y: NDArray[Any]) -> Record:
        # Of one sample there is none.
        return {"val/r2": float(r2_score(y, outputs.numpy()))} if len(y) > 1 else {}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
