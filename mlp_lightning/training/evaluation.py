"""Loss and confusion counts over a whole evaluation set, exact for any cut into batches and processes."""

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix


class Evaluation(nn.Module):
    """Sums that batches add to, and the figures that follow from them.

    The mean loss is Σ losses / Σ normalizers over all batches, so a ragged last batch weighs what it should.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.confusion = MulticlassConfusionMatrix(n_classes, validate_args=False)
        # "disable": a loss that is not finite must reach the caller as it is.
        self.loss_sum = SumMetric(nan_strategy="disable")
        self.normalizer = SumMetric(nan_strategy="disable")

    def update(self, logits: Tensor, targets: Tensor, loss_sum: Tensor, normalizer: float | Tensor) -> None:
        """Add one batch: logits ``(B, K)``, targets ``(B,)``, its summed loss and what the mean divides by."""
        self.confusion.update(logits.argmax(1), targets)
        self.loss_sum.update(loss_sum)
        self.normalizer.update(normalizer)

    def finish(self) -> tuple[float, Tensor]:
        """The mean loss and the counts ``(K, K)`` of true class (row) by predicted class; starts anew."""
        loss = float(self.loss_sum.compute() / self.normalizer.compute())
        counts = self.confusion.compute().cpu()
        # Sums made anew under inference mode could not be added to outside of it, where several processes evaluate.
        with torch.inference_mode(False):
            for metric in (self.confusion, self.loss_sum, self.normalizer):
                metric.reset()
        return loss, counts


def accuracy(counts: Tensor) -> float:
    """Share of samples on the diagonal of a confusion matrix."""
    return int(counts.diagonal().sum()) / int(counts.sum())


def class_accuracy(counts: Tensor) -> list[float]:
    """For each true class the share of its samples on the diagonal; NaN for a class without samples."""
    return [float(share) for share in counts.diagonal().to(torch.float64) / counts.sum(1)]
