"""Loss and confusion counts over a whole evaluation set, exact for any cut into batches and processes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from mlp_lightning.engines.ranks import sum_over_ranks
from mlp_lightning.nn.losses import Loss, SoftmaxCrossEntropy


class Weights(NamedTuple):
    """Which weights were evaluated: the name of their file, None where there is none, and how far they were trained."""

    file: str | None
    epoch: int
    step: int

    @classmethod
    def of_checkpoint(cls, path: Path, content: dict[str, Any]) -> "Weights":
        """The weights of a checkpoint; the first epoch is 1, and a running epoch counts."""
        return cls(path.name, content.get("epoch", 0) + 1, content.get("global_step", 0))

    def __str__(self) -> str:
        return f"{self.file or 'last weights'}, epoch {self.epoch}"


class Evaluation(nn.Module):
    """Sums that batches add to, and the figures that follow from them.

    The mean loss is Σ losses / Σ normalizers over all batches, so a ragged last batch weighs what it should.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.confusion = MulticlassConfusionMatrix(n_classes, validate_args=False)
        # In 64 bits whatever the precision of the training: how a sum is cut into batches and processes must not show.
        self._sums = torch.zeros(2, dtype=torch.float64)

    def update(self, logits: Tensor, targets: Tensor, loss_sum: Tensor, normalizer: float | Tensor) -> None:
        """Add one batch: logits ``(B, K)``, targets ``(B,)``, its summed loss and what the mean divides by."""
        self.confusion.update(logits.argmax(1), targets)
        sums = [torch.as_tensor(part, dtype=torch.float64, device=logits.device) for part in (loss_sum, normalizer)]
        self._sums = self._sums.to(logits.device) + torch.stack(sums)

    def finish(self) -> tuple[float, Tensor]:
        """The mean loss and the counts ``(K, K)`` of true class (row) by predicted class; starts anew."""
        loss_sum, normalizer = sum_over_ranks(self._sums).tolist()
        self._sums = torch.zeros_like(self._sums)
        counts = self.confusion.compute().cpu()
        # Sums made anew under inference mode could not be added to outside of it, where several processes evaluate.
        with torch.inference_mode(False):
            self.confusion.reset()
        return loss_sum / normalizer, counts


def mean_output(outputs: Iterable[Tensor], loss: Loss) -> Tensor:
    """One output ``(B, K)`` for several of the same samples, such as the loss compares with their targets.

    For cross-entropy it is the mean of their log-probabilities, which the loss normalises as it does logits; for
    squared error the mean of the outputs themselves.
    """
    if isinstance(loss, SoftmaxCrossEntropy):
        outputs = [torch.log_softmax(output, 1) for output in outputs]
    return torch.stack(list(outputs)).mean(0)


def accuracy(counts: Tensor) -> float:
    """Share of samples on the diagonal of a confusion matrix."""
    return int(counts.diagonal().sum()) / int(counts.sum())


def class_accuracy(counts: Tensor) -> list[float]:
    """For each true class the share of its samples on the diagonal; NaN for a class without samples."""
    return [float(share) for share in counts.diagonal().to(torch.float64) / counts.sum(1)]
