"""Labels as arrays hold them: numbers, texts, bytes, a column of these, or one-hot rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlp_lightning.errors import UserError


def label_cells(y: NDArray, name: str) -> list[Any]:
    """One number or text for each of N samples, as Python has them.

    Args:
        y: ``(N,)`` or ``(N, 1)`` numbers, truth values, texts or UTF-8 bytes; or ``(N, K)``, one-hot, whose classes are
            0 … K−1.
        name: what errors call it.

    Raises:
        UserError: another shape or type, rows that are not one-hot, or bytes that are no text.
    """
    if y.dtype.kind not in "iubUSf" or y.ndim not in (1, 2) or (y.ndim == 2 and y.shape[1] == 0):
        raise UserError(
            f"{name}: has the shape {y.shape} and the type {y.dtype}, must be one number or text for each sample, "
            "or one-hot rows (N, K)"
        )
    if y.ndim == 2 and y.shape[1] > 1:
        return _from_one_hot(y, name)
    flat = np.asarray(y).reshape(-1)
    if flat.dtype.kind != "S":
        return flat.tolist()
    try:
        return [cell.decode() for cell in flat.tolist()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: holds bytes that are no UTF-8 text ({error.reason}); save the labels as texts"
        ) from error


def _from_one_hot(y: NDArray, name: str) -> list[int]:
    numbers = y if y.dtype.kind in "iubf" else np.zeros_like(y, dtype=bool)
    one_hot = ((numbers == 0) | (numbers == 1)).all(1) & (numbers.sum(1) == 1)
    if not one_hot.all():
        row = int((~one_hot).argmax())
        raise UserError(
            f"{name}, row {row}: the shape is {y.shape}, but the row is not one-hot (one 1, the others 0); must be one "
            "number or text for each sample, or one-hot rows"
        )
    return numbers.argmax(1).tolist()
