"""Losses over a minibatch of logits ``(B, K)`` and targets, with their backward passes.

Targets are classes ``(B,)``, int64, or their probabilities ``(B, K)``, which stand in for the one-hot rows; for squared
error any numbers ``(B, K)``.

``forward(logits, targets) → (loss, cache)`` and ``backward(cache, dloss) → dlogits``. The loss is the sum of the
samples' losses times ``scale``: ``1 / normalizer(logits, targets)`` for ``reduction="mean"`` and 1 for ``"sum"``. That
scale enters the gradient here and nowhere else in the package.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]
Cache = tuple[Tensor, Tensor, float | Tensor]


class FusedLoss(NamedTuple):
    """A loss as a kernel computes it within the step."""

    kind: Literal["cross_entropy"]
    label_smoothing: float


class SoftmaxCrossEntropy:
    """Softmax and cross-entropy in one, −log pᵧ with p = softmax(logits), optionally smoothed and weighted by class.

    With targets q = (1 − ε)·onehot(y) + ε/K (Szegedy et al. 2016, eq. 7) and class weights w, a sample's loss is
    ℓ = −Σ_c w_c q_c log p_c and its gradient dℓ/dlogits = (Σ_c w_c q_c) p − w q, which is p − onehot(y) when ε = 0 and
    w = 1. The mean divides by Σ_i w_{y_i}, which is B without weights. These are the definitions of
    ``torch.nn.CrossEntropyLoss``, but that for probabilities y the mean divides by Σ_i Σ_c w_c y_ic, as it does for
    one-hot rows, where torch's divides by B.

    A row of targets s_i y_i, s_i ≥ 0, is sample i with weight s_i: its loss and its gradient are s_i ℓ_i and
    s_i dℓ_i/dlogits, since both are linear in the row, with q = (1 − ε) s y + (ε/K) Σ_c s y_c. With class weights, all
    1 if need be, the mean then divides by Σ_i s_i w_{y_i}: a weight of 2 equals the sample twice.

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

    @property
    def fused(self) -> "FusedLoss | None":
        """What a kernel that computes the loss with the step needs to know; None with class weights."""
        return FusedLoss("cross_entropy", self.label_smoothing) if self.class_weights is None else None

    def normalizer(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """What the mean divides by: Σ_i w_{y_i}."""
        if self.class_weights is None:
            return float(targets.shape[0])
        weights = self._weights(logits)
        return weights[targets].sum() if targets.ndim == 1 else (targets.to(logits) @ weights).sum()

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Cache]:
        """The loss (0-dim), finite for any finite logits, and the cache that ``backward`` takes.

        A logit of −∞ is a class that cannot be: the loss is infinite where a target's share of it is not 0.
        """
        _check_minibatch(logits, targets, self.reduction)
        if self.class_weights is not None and self.class_weights.shape != logits.shape[1:]:
            raise ValueError(
                f"class_weights must be (K,) = {tuple(logits.shape[1:])}, got {tuple(self.class_weights.shape)}"
            )
        # log_softmax subtracts the row's maximum before it exponentiates (log-sum-exp), so nothing overflows.
        log_probs = torch.log_softmax(logits, 1)
        if targets.ndim == 2:
            q = self._weighted_probabilities(log_probs, targets)
            # Where log p is −∞ and q is 0, their product is to be 0.
            losses = q.mul_(log_probs.masked_fill(q == 0, 0.0)).sum(1).neg_()
        else:
            losses = self._losses_of_classes(log_probs, targets)
        scale: float | Tensor = 1.0
        if self.reduction == "mean":
            scale = 1.0 / self.normalizer(logits, targets)
            losses = losses.mul_(scale)
        # Two finite logits may differ by more than the largest number: the loss is then that number, not infinity.
        loss = losses.sum()
        largest = loss.clamp(max=torch.finfo(losses.dtype).max)
        return torch.where((logits == -math.inf).any(), loss, largest), (log_probs, targets, scale)

    def _losses_of_classes(self, log_probs: Tensor, targets: Tensor) -> Tensor:
        losses = -log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
        if self.class_weights is not None:
            losses = losses * self._weights(log_probs)[targets]
        if self.label_smoothing:
            weighted = log_probs if self.class_weights is None else log_probs * self._weights(log_probs)
            losses = losses.mul_(1 - self.label_smoothing).sub_(weighted.mean(1), alpha=self.label_smoothing)
        return losses

    def backward(self, cache: Cache, dloss: float | Tensor = 1.0) -> Tensor:
        """dlogits ``(B, K)``, times the incoming ``dloss``."""
        log_probs, targets, scale = cache
        dlogits = log_probs.exp()
        if targets.ndim == 1 and self.class_weights is None and not self.label_smoothing:
            dlogits.scatter_(1, targets.unsqueeze(1), -1.0, reduce="add")
        else:
            q = self._weighted_probabilities(dlogits, targets)
            dlogits.mul_(q.sum(1, keepdim=True)).sub_(q)
        return dlogits.mul_(scale * dloss)

    def _weighted_probabilities(self, like: Tensor, targets: Tensor) -> Tensor:
        """What each −log p_c counts, w q ``(B, K)``."""
        smoothing = self.label_smoothing
        if targets.ndim == 1:
            q = torch.full_like(like, smoothing / like.shape[1])
            q.scatter_(1, targets.unsqueeze(1), 1 - smoothing, reduce="add")
        else:
            targets = targets.to(like)
            q = (targets * (1 - smoothing)).add_(targets.sum(1, keepdim=True) * (smoothing / like.shape[1]))
        return q if self.class_weights is None else q.mul_(self._weights(like))

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

    @property
    def fused(self) -> FusedLoss | None:
        """None: no kernel computes it with the step."""
        return None

    def normalizer(self, logits: Tensor, targets: Tensor) -> float:
        """What the mean divides by: B·K."""
        return float(logits.numel())

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Cache]:
        """The loss (0-dim) and the cache that ``backward`` takes."""
        _check_minibatch(logits, targets, self.reduction)
        if targets.ndim == 2:
            difference = logits - targets.to(logits)
        else:
            difference = logits.scatter(1, targets.unsqueeze(1), -1.0, reduce="add")
        scale = 1.0 if self.reduction == "sum" else 1.0 / self.normalizer(logits, targets)
        return difference.square().sum() * scale, (difference, targets, scale)

    def backward(self, cache: Cache, dloss: float | Tensor = 1.0) -> Tensor:
        """dlogits ``(B, K)``, times the incoming ``dloss``."""
        difference, _, scale = cache
        return difference * (2 * scale * dloss)


class WeightedSquaredError(MeanSquaredError):
    """Squared error of weighted samples: loss Σ_i s_i Σ_c (x_ic − t_ic)², dlogits = 2 s_i (x_ic − t_ic).

    Targets ``(B, K + 1)`` hold t_i and in the last column s_i. The mean divides by K Σ_i s_i: a weight of 2 equals the
    sample twice.
    """

    def normalizer(self, logits: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        """What the mean divides by: K Σ_i s_i; that of classes ``(B,)``, which have no weights, B·K."""
        weights = targets[:, -1] if targets.ndim == 2 else targets.new_ones(targets.shape)
        return weights.sum() * logits.shape[1]

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Cache]:
        """The loss (0-dim) and the cache that ``backward`` takes."""
        values, weights = targets[:, :-1], targets[:, -1:].to(logits)
        _check_minibatch(logits, values, self.reduction)
        difference = logits - values.to(logits)
        scale = 1.0 if self.reduction == "sum" else 1.0 / self.normalizer(logits, targets)
        return (difference.square() * weights).sum() * scale, (difference * weights, targets, scale)


Loss = SoftmaxCrossEntropy | MeanSquaredError
LOSSES = {"cross_entropy": SoftmaxCrossEntropy, "mse": MeanSquaredError}


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")


def _check_minibatch(logits: Tensor, targets: Tensor, reduction: Reduction) -> None:
    classes_fit = targets.shape == logits.shape[:1] and targets.dtype == torch.int64
    probabilities_fit = targets.shape == logits.shape and targets.is_floating_point()
    if logits.ndim != 2 or not logits.is_floating_point() or not (classes_fit or probabilities_fit):
        raise ValueError(
            f"floating-point logits (B, K) and int64 targets (B,) or probabilities (B, K) are needed, "
            f"got {logits.dtype} {tuple(logits.shape)} and {targets.dtype} {tuple(targets.shape)}"
        )
    if reduction == "mean" and not len(targets):
        raise ValueError("reduction 'mean' needs at least one sample, got none")
