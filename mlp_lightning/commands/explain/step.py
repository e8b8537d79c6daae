"""What an explanation is made of: one record for each operation, which renderers show without knowing of networks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Phase = Literal["forward", "loss", "backward", "adversary", "update", "afterwards"]
View = Literal["none", "image", "heat", "bars"]

# Up to so many entries are shown one by one.
FEW_ENTRIES = 12


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        phase: the part of a training step that it belongs to.
        name: the symbol of its result.
        formula: plain Unicode, one line.
        shapes: the formula with shapes in place of symbols.
        value: its result, of any shape.
        multiply_adds: those of its matrix product; 0 for elementwise operations and sums, whose cost is their bytes.
        bytes: memory that the formula moves if each operand is read once and the result is written once.
        source: the file that computes it, from the project's root.
        numbers: the formula with numbers in place of symbols, or a remark; may be empty.
        detail: the part of the result worth a closer look, such as one sample's row; None for all of it.
        about: which part that is, in a word or two; empty for all of it.
        view: how to draw ``detail``: a grey image ``(height, width)``; a heat map of ``(n,)``, ``(rows, columns)`` or
            ``(images, height, width)`` entries; labelled bars ``(n,)``.
        labels: a name for each entry of ``detail``; may be empty.
        marked: the entry of ``detail`` to point out.
        in_overview: whether its picture belongs to the summary of the whole.
    """

    phase: Phase
    name: str
    formula: str
    shapes: str
    value: Tensor
    source: str
    multiply_adds: int = 0
    bytes: int = 0
    numbers: str = ""
    detail: Tensor | None = None
    about: str = ""
    view: View = "none"
    labels: tuple[str, ...] = ()
    marked: int | None = None
    in_overview: bool = False

    def summary(self) -> list[tuple[str, float]]:
        """Minimum, mean, maximum and Euclidean norm of the whole result, in float64; the number itself if it is one."""
        value = self.value.detach().double()
        if value.ndim == 0:
            return [("value", float(value))]
        norm = torch.linalg.vector_norm(value)
        parts = {"min": value.min(), "mean": value.mean(), "max": value.max(), "norm": norm}
        return [(label, float(part)) for label, part in parts.items()]

    def entries(self) -> list[tuple[str, float]]:
        """Every entry of the detail with its label, if they are few; otherwise none."""
        shown = self.value if self.detail is None else self.detail
        if shown.ndim == 0 or shown.numel() > FEW_ENTRIES:
            return []
        numbers = shown.detach().double().flatten().tolist()
        labels = self.labels or [str(i) for i in range(len(numbers))]
        return list(zip(labels, numbers, strict=True))


@dataclass(frozen=True)
class Explanation:
    """A walk with a title, and what stands before and after it as pairs of label and text."""

    title: str
    facts: Sequence[tuple[str, str]]
    steps: Sequence[Step]
    totals: Sequence[tuple[str, str]]


def number(value: float) -> str:
    """Four significant digits, with a true minus sign."""
    if not math.isfinite(value):
        return str(value).replace("-", "−")
    # Adding 0 turns −0 into 0.
    return f"{value + 0.0:.4g}".replace("-", "−")


def subscript(k: int) -> str:
    """12 → ₁₂."""
    return str(k).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def shape(tensor: Tensor) -> str:
    """(64, 784); a 0-dim tensor is a ``number``."""
    return str(tuple(tensor.shape)) if tensor.ndim else "number"


def moved(*tensors: Tensor) -> int:
    """Bytes of all tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def source_of(function: Callable[..., Any] | type) -> str:
    """The file of a function or class, as a path from the project's root."""
    return function.__module__.replace(".", "/") + ".py"


def first_line(function: Callable[..., Any]) -> str:
    """The first line of a docstring, which holds the formula, without its full stop."""
    return (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")
