"""Losses over a minibatch of logits ``(B, K)`` and integer targets ``(B,)``, with their backward passes.

``forward(logits, targets) → (loss, cache)`` and ``backward(cache, dloss) → dlogits``. The loss is the sum of the
samples' losses times ``scale``: ``1 / normalizer(logits, targets)`` for ``reduction="mean"`` and 1 for ``"sum"``. That
scale enters the gradient here and nowhere else in the package.
"""

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]
Cache = tuple[Tensor, Tensor, float | Tensor]


class SoftmaxCrossEntropy:
    """Softmax and cross-entropy in one, −log pᵧ with p = softmax(logits), optionally smoothed and weighted by class.

    With targets q = (1 − ε)·onehot(y) + ε/K (Szegedy et al. 2016, eq. 7) and class weights w, a sample's loss is
    ℓ = −Σ_c w_c q_c log p_c and its gradient dℓ/dlogits = (Σ_c w_c q_c) p − w q, which is p − onehot(y) when ε = 0 and
    w = 1. The mean divides by Σ_i w_{y_i}, which is B without weights. These are the definitions of
    ``torch.nn.CrossEntropyLoss``.

    Args:
        reduction: ``"mean"`` or ``"sum"`` over the minibatch.
        label_smoothing: ε in [0, 1).
        class_weights: w ``(K,)``, each positive; None for 1.

    Raises:
        ValueError: an argument outside its range, logits, targets and class weights whose shapes or types do not fit,
            or the mean of no samples.
    """

    def __init__(
        self, reduction: Reduction = "mean", *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> None:
        _check_reduction(reduction)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if class_weights is not None and not bool((class_weights > 0).all() & class_weights.isfinite().all()):
            raise ValueError(f"class_weights must be positive and finite, got {class_weights.tolist()}")
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights

    def normalizer(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """What the mean divides by: Σ_i w_{y_i}."""
        if self.class_weights is None:
            return float(len(targets))
        return self._weights(logits)[targets].sum()

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Cache]:
        """The loss (0-dim), finite for any finite logits, and the cache that ``backward`` takes."""
        _check_minibatch(logits, targets, self.reduction)
        if self.class_weights is not None and self.class_weights.shape != logits.shape[1:]:
            raise ValueError(
                f"class_weights must be (K,) = {tuple(logits.shape[1:])}, got {tuple(self.class_weights.shape)}"
            )
        # log_softmax subtracts the row's maximum before it exponentiates (log-sum-exp), so nothing overflows.
        log_probs = torch.log_softmax(logits, 1)
        losses = -log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
        if self.class_weights is not None:
            losses = losses * self._weights(logits)[targets]
        if self.label_smoothing:
            weighted = log_probs if self.class_weights is None else log_probs * self._weights(logits)
            losses = losses.mul_(1 - self.label_smoothing).sub_(weighted.mean(1), alpha=self.label_smoothing)
        scale: float | Tensor = 1.0
        if self.reduction == "mean":
            scale = 1.0 / self.normalizer(logits, targets)
            losses = losses.mul_(scale)
        # Two finite logits may differ by more than the largest number: the loss is then that number, not infinity.
        loss = losses.sum().clamp_(max=torch.finfo(losses.dtype).max)
        return loss, (log_probs, targets, scale)

    def backward(self, cache: Cache, dloss: float | Tensor = 1.0) -> Tensor:
        """dlogits ``(B, K)``, times the incoming ``dloss``."""
        log_probs, targets, scale = cache
        index = targets.unsqueeze(1)
        dlogits = log_probs.exp()
        if self.class_weights is None and not self.label_smoothing:
            dlogits.scatter_(1, index, -1.0, reduce="add")
        else:
            q = torch.full_like(dlogits, self.label_smoothing / dlogits.shape[1])
            q.scatter_(1, index, 1 - self.label_smoothing, reduce="add")
            if self.class_weights is not None:
                q *= self._weights(dlogits)
            dlogits.mul_(q.sum(1, keepdim=True)).sub_(q)
        return dlogits.mul_(scale * dloss)

    def _weights(self, like: Tensor) -> Tensor:
        assert self.class_weights is not None
        self.class_weights = self.class_weights.to(like)
        return self.class_weights


class MeanSquaredError:
    """Squared error of the outputs against one-hot targets, Σ_c (x_c − onehot(y)_c)² a sample, without a half.

    The mean divides by B·K, as ``torch.nn.MSELoss`` does: loss = 1/(B·K) Σ (x − t)², dlogits = 2/(B·K) (x − t).

    Args:
        reduction: ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: an unknown reduction, logits and targets whose shapes or types do not fit, or the mean of no
            samples.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        _check_reduction(reduction)
        self.reduction = reduction

    def normalizer(self, logits: Tensor, targets: Tensor) -> float:
        """What the mean divides by: B·K."""
        return float(logits.numel())

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Cache]:
        """The loss (0-dim) and the cache that ``backward`` takes."""
        _check_minibatch(logits, targets, self.reduction)
        index = targets.unsqueeze(1)
        difference = logits.scatter(1, index, -1.0, reduce="add")
        scale = 1.0 if self.reduction == "sum" else 1.0 / self.normalizer(logits, targets)
        return difference.square().sum() * scale, (difference, targets, scale)

    def backward(self, cache: Cache, dloss: float | Tensor = 1.0) -> Tensor:
        """dlogits ``(B, K)``, times the incoming ``dloss``."""
        difference, _, scale = cache
        return difference * (2 * scale * dloss)


Loss = SoftmaxCrossEntropy | MeanSquaredError
LOSSES = {"cross_entropy": SoftmaxCrossEntropy, "mse": MeanSquaredError}


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")


def _check_minibatch(logits: Tensor, targets: Tensor, reduction: Reduction) -> None:
    shapes_fit = logits.ndim == 2 and targets.shape == logits.shape[:1]
    if not shapes_fit or not logits.is_floating_point() or targets.dtype != torch.int64:
        raise ValueError(
            f"floating-point logits (B, K) and int64 targets (B,) are needed, "
            f"got {logits.dtype} {tuple(logits.shape)} and {targets.dtype} {tuple(targets.shape)}"
        )
    if reduction == "mean" and not len(targets):
        raise ValueError("reduction 'mean' needs at least one sample, got none")
