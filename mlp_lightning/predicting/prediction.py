"""What a model makes of samples: for each its class, and how sure that is."""

from typing import NamedTuple

from torch import Tensor

from mlp_lightning.data.images.digit_pictures import Invert
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.inputs import Inputs, Part, Reader
from mlp_lightning.predicting.model import Model

LISTED = 5


class Prediction(NamedTuple):
    """The most probable class of one sample.

    Args:
        label: name of the class.
        probability: of that class, in [0, 1].
        top: the most probable classes with their probabilities, in falling order.
        source: the file, or ``file, row N``; empty for what comes from no file.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    source: str = ""


def predict(
    model: Model,
    inputs: Inputs,
    *,
    top: int = 3,
    invert: Invert = "auto",
    center: bool | None = None,
) -> list[Prediction]:
    """The classes of ``inputs``, in their order.

    Args:
        model: from ``load``.
        inputs: The path of a picture, a folder of them, a table (.csv) or an array (.npy, .npz), or several paths; a
            picture of pillow, or several; an array or tensor ``(N, D)`` or ``(N, H, W[, 3])``, of fractions from 0 to 1
            or bytes if they are images, or a single sample of it; or the columns of a table, a dict or a pandas frame.
        top: how many classes ``Prediction.top`` holds, at least 1; K at most.
        invert: for models of digits: whether pictures show dark digits on light paper (``always``), light ones on dark
            (``never``), or are to be looked at (``auto``).
        center: Whether pictures are scaled and centred as MNIST's were; None for whether the model's were.

    Raises:
        UserError: an input that cannot be read, or does not fit the model.
    """
    reader = Reader(model, invert, center)
    predictions = [prediction for part in reader.parts(inputs) for prediction in predictions_of(model, part, top)]
    check_readable(reader.unreadable)
    return predictions


def predictions_of(model: Model, part: Part, top: int) -> list[Prediction]:
    """Those of one part; raises UserError for a ``top`` below 1."""
    if top < 1:
        raise UserError(f"top: got {top}, must be at least 1")
    probabilities: Tensor = model.probabilities(part.x)
    wrong = ~probabilities.isfinite().all(1)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        place = _source(part, first) or f"sample {first}"
        raise UserError(
            f"{place}: the network's outputs are not finite; its numbers, or the model's weights, are too large"
        )
    shares, classes = probabilities.topk(min(top, len(model.class_names)), 1)
    found = []
    for row, (share, k) in enumerate(zip(shares.tolist(), classes.tolist(), strict=True)):
        best = tuple((model.class_names[index], value) for index, value in zip(k, share, strict=True))
        found.append(Prediction(*best[0], best, _source(part, row)))
    return found


def _source(part: Part, sample: int) -> str:
    """Where a sample of a part comes from; empty for no file."""
    file, row = part.files[sample], part.rows[sample]
    return f"{file}, row {row}" if file and row is not None else file


def check_readable(unreadable: list[str], hint: str = "") -> None:
    """Raise a UserError that lists, up to a few, what cannot be read; do nothing if that is nothing."""
    if len(unreadable) == 1:
        raise UserError(f"{unreadable[0]}{hint}")
    if unreadable:
        more = f"; and {len(unreadable) - LISTED} more" if len(unreadable) > LISTED else ""
        raise UserError(f"{len(unreadable)} pictures cannot be read: {'; '.join(unreadable[:LISTED])}{more}{hint}")
