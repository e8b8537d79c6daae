"""What ``predict`` tells: a short table on the terminal, every row in a CSV file, the first pictures on a sheet."""

import csv
from typing import TYPE_CHECKING, TextIO

import torch
from torch import Tensor

from mlp_lightning.commands.inert import inert
from mlp_lightning.predicting.inputs import Part, Reader
from mlp_lightning.predicting.model import Model
from mlp_lightning.predicting.prediction import Prediction, predictions_of
from mlp_lightning.training.callbacks.tables import format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRINTED = 20
ON_SHEET = 100


class Results:
    """Predictions as they come; only the first of them are kept.

    Args:
        model: whose they are.
        top: how many classes to tell of each sample.
        sheet: whether to keep what the contact sheet shows.
    """

    def __init__(self, model: Model, top: int, *, sheet: bool) -> None:
        self.count = self.labelled = self.right = 0
        self._model = model
        self._top = min(top, len(model.class_names))
        self._printed: list[tuple[str, ...]] = []
        self._kept = ON_SHEET if sheet else 0
        self._x: list[Tensor] = []
        self._predictions: list[Prediction] = []
        self._labels: list[str | None] = []

    def take(self, reader: Reader, inputs: list[str], file: TextIO | None) -> None:
        """Predict all inputs, and write a row for each sample to ``file``, with ``inert`` texts.

        Raises:
            UserError: as ``Reader.parts``.
        """
        writer = None if file is None else csv.writer(file, lineterminator="\n")
        if writer is not None:
            names = [("class", "probability"), *((f"class_{k}", f"probability_{k}") for k in range(2, self._top + 1))]
            writer.writerow(["file", "row", *(name for pair in names for name in pair), "label"])
        for part in reader.parts(inputs):
            predictions = predictions_of(self._model, part, self._top)
            self._add(part, predictions)
            if writer is not None:
                for name, row, label, prediction in zip(part.files, part.rows, part.labels, predictions, strict=True):
                    shares = [cell for known, share in prediction.top for cell in (inert(known), f"{share:.6g}")]
                    writer.writerow([inert(name), "" if row is None else row, *shares, inert(label or "")])

    def _add(self, part: Part, predictions: list[Prediction]) -> None:
        self.count += len(predictions)
        known = [(p.label, label) for p, label in zip(predictions, part.labels, strict=True) if label is not None]
        self.labelled += len(known)
        self.right += sum(predicted == label for predicted, label in known)
        for prediction in predictions[: PRINTED - len(self._printed)]:
            first, *others = [(name, f"{share:.1%}") for name, share in prediction.top]
            self._printed.append((prediction.source, *first, ", ".join(f"{name} {share}" for name, share in others)))
        room = self._kept - len(self._predictions)
        if room > 0:
            self._x.append(part.x[:room])
            self._predictions += predictions[:room]
            self._labels += part.labels[:room]

    def text(self, output: str | None) -> str:
        """The first predictions as a table, how many more there are, and the accuracy where labels are known."""
        then = (f"next {self._top - 1}",) if self._top > 1 else ()
        lines = [
            format_table([("input", "class", "probability", *then), *(row[: 3 + len(then)] for row in self._printed)])
        ]
        if self.count > len(self._printed):
            rest = f"{self.count - len(self._printed):,} more of {self.count:,}"
            lines.append(f"… and {rest}, {f'see {output}' if output else '--output writes them all'}")
        if self.labelled:
            share = self.right / self.labelled
            lines.append(f"accuracy: {share:.2%}, {self.right:,} of {self.labelled:,} with a label")
        return "\n".join(lines)

    def contact_sheet(self) -> "Figure":
        """The first pictures as the network sees them, with class and probability."""
        from mlp_lightning.figures import predictions_figure

        images = torch.cat(self._x).view(-1, *self._model.image_shape)
        shown = f"the first {len(images)} of {self.count:,}" if self.count > len(images) else f"{len(images)} pictures"
        return predictions_figure(
            images.numpy(),
            [prediction.label for prediction in self._predictions],
            [prediction.probability for prediction in self._predictions],
            self._labels,
            f"As the network sees them: {shown}",
        )
