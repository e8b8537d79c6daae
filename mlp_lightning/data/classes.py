"""From labels as files have them to classes 0 … K−1: their names, their order, and how often each occurs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.data.tabular.cells import composed, number, place_of, text, texts
from mlp_lightning.data.tabular.written import ways
from mlp_lightning.errors import UserError

MOST_NAMED = 10
# So many different numbers may still be classes, however seldom each occurs.
FEW_NUMBERS = 20
# Whole numbers that occur as often as this, or more, are classes, however many they are.
OFTEN = 10


def label_text(cell: Any) -> str:
    """The name of a label that stands alone, as ``label_texts`` makes it."""
    return texts([cell])[0]


def label_texts(cells: Sequence[Any]) -> list[str]:
    """The names of a column's labels; 2.0 is 2 if all of them are whole numbers."""
    return texts(cells)


def names_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels, composed, numbers by size, others by the alphabet."""
    names = {composed(label) for label in labels}
    values = {name: number(name) for name in names}
    if all(value is not None and value == value for value in values.values()):
        return tuple(sorted(names, key=lambda name: (values[name] or 0.0, name)))
    return tuple(sorted(names))


def index_of(class_names: Sequence[str]) -> dict[str, int]:
    """The class of each name, composed; ``place_of`` finds labels in it."""
    return {composed(name): k for k, name in enumerate(class_names)}


def class_of(label: Any, index: Mapping[str, int]) -> int | None:
    """The class that a label names, where 2.0 and 2 are the same unless both are classes; None for no class."""
    return place_of(text(label), index)


def encoded(labels: Sequence[str], class_names: Sequence[str], place: Callable[[int], str]) -> Tensor:
    """Classes ``(N,)``, int64.

    Args:
        labels: N labels.
        class_names: K names.
        place: says where label i stands.

    Raises:
        UserError: a label that is no class.
    """
    index = index_of(class_names)
    known = {label: class_of(label, index) for label in set(labels)}
    codes = [known[label] for label in labels]
    if None in codes:
        row = codes.index(None)
        raise UserError(
            f"{place(row)}: got label {labels[row]!r}, which is no class of the training: {_few(class_names)}"
        )
    return torch.tensor(codes, dtype=torch.int64)


def check_labels(labels: Sequence[str], where: str) -> None:
    """Refuse labels that are a quantity, or that name rows.

    A quantity are more than ``FEW_NUMBERS`` different numbers that have fractions, or of which each occurs in fewer
    than ``OFTEN`` rows on average. Whole numbers from 0 or 1 on without a gap are codes of classes.

    Args:
        labels: those of the training file.
        where: what an error names.

    Raises:
        UserError: likewise.
    """
    counts = Counter(labels)
    n, n_different = len(labels), len(counts)
    found = ways(list(counts)) if n_different > 2 else []
    if found:
        values = {value for name in counts if (value := found[0].number(name)) is not None}
        whole = all(value % 1 == 0 for value in values)
        codes = whole and min(values) in (0, 1) and max(values) - min(values) == n_different - 1
        rare = n < OFTEN * n_different if n_different > FEW_NUMBERS else not whole and 2 * n_different > n
        if not codes and (rare or (not whole and n_different > FEW_NUMBERS)):
            raise UserError(
                f"{where} has {n_different} different numbers, such as {_few([*counts][:3])}: this looks like a "
                "quantity to estimate (regression), but this program only classifies; make classes of it, such as low "
                "and high, or write numbers that name classes as texts, such as c7"
            )
    elif n_different > FEW_NUMBERS and 2 * n_different > n:
        raise UserError(
            f"{where} has {n_different} different texts in {n} rows, such as {_few([*counts][:3])}: they name rows "
            "rather than classes"
        )


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
