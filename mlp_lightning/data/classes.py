"""From labels as files have them to classes 0 … K−1: their names, their order, and how often each occurs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.data.cells import number, text
from mlp_lightning.errors import UserError

MOST_NAMED = 10


def label_text(cell: Any) -> str:
    """A label's name: whole numbers without a decimal point, however they are written."""
    written = text(cell)
    value = number(written)
    return str(int(value)) if value is not None and abs(value) < 1e15 and value == int(value) else written


def names_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels, numbers by size, others by the alphabet."""
    names = set(labels)
    values = {name: number(name) for name in names}
    if all(value is not None and value == value for value in values.values()):
        return tuple(sorted(names, key=lambda name: values[name] or 0.0))
    return tuple(sorted(names))


def encoded(labels: Sequence[str], class_names: Sequence[str], place: Callable[[int], str]) -> Tensor:
    """Classes ``(N,)``, int64.

    Args:
        labels: N labels.
        class_names: K names.
        place: says where label i stands.

    Raises:
        UserError: a label that is no class.
    """
    index = {name: k for k, name in enumerate(class_names)}
    codes = [index.get(label, -1) for label in labels]
    if -1 in codes:
        row = codes.index(-1)
        raise UserError(
            f"{place(row)}: got label {labels[row]!r}, which is no class of the training: {_few(class_names)}"
        )
    return torch.tensor(codes, dtype=torch.int64)


def check_training_classes(counts: Tensor, class_names: Sequence[str], where: str) -> None:
    """Refuse a training part that teaches nothing.

    Args:
        counts: samples of each class in the training part ``(K,)``.
        class_names: K names.
        where: what an error names.

    Raises:
        UserError: one class only, or fewer samples than classes.
    """
    n, n_classes = int(counts.sum()), len(class_names)
    if n_classes < 2:
        raise UserError(f"{where} has one class only, {_few(class_names)}; must have at least two")
    if n < n_classes:
        raise UserError(
            f"{where} has {n} samples for {n_classes} classes in its training part, must have at least one for each "
            f"({_few(class_names)})"
        )


def check_each_class_trains(counts: Tensor, class_names: Sequence[str], where: str) -> None:
    """Refuse a training part in which a class never occurs, which no training could then learn.

    Args:
        counts: samples of each class in the training part ``(K,)``.
        class_names: K names.
        where: what an error names.

    Raises:
        UserError: a class without samples.
    """
    absent = [name for name, count in zip(class_names, counts.tolist(), strict=True) if count == 0]
    if absent:
        raise UserError(
            f"{where} has samples of {_few(absent)} that test or validate, but none in its training part, must have at "
            "least one; try another --seed_everything, a smaller data.validation_size, or leave the class out"
        )


def balanced_weights(counts: Tensor, class_names: Sequence[str]) -> list[float]:
    """n / (K · n_k) for each class k: every class then weighs as much as any other in the loss.

    Args:
        counts: n_k, samples of each class in the training part ``(K,)``.
        class_names: K names.

    Raises:
        UserError: a class without samples.
    """
    if bool((counts == 0).any()):
        name = class_names[int((counts == 0).nonzero()[0])]
        raise UserError(f"model.class_weights: got balanced, but class {name} has no sample in the training part")
    return [float(weight) for weight in counts.sum() / (len(counts) * counts.double())]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
