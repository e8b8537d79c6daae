"""An explanation as text for a terminal of 100 columns, without colours."""

import textwrap
from collections.abc import Sequence

import torch
from torch import Tensor

from mlp_lightning.commands.explain.step import Explanation, Step, number
from mlp_lightning.printable import printable

WIDTH = 100
INDENT = 4
NAME_WIDTH = 10
LONGEST_LABEL = 20
# From white to black in five steps, as on paper.
SHADES = " ░▒▓█"


def render_text(explanation: Explanation) -> str:
    """Sections by phase, in each operation by operation; no line is longer than 100 characters."""
    lines = [printable(explanation.title)[:WIDTH], "=" * WIDTH, *_pairs(explanation.facts)]
    phase = ""
    for count, step in enumerate(explanation.steps, start=1):
        if step.phase != phase:
            phase = step.phase
            lines += ["", f"{phase.upper()} ".ljust(WIDTH, "─")]
        lines += ["", *_step(count, step)]
    lines += ["", "TOTALS ".ljust(WIDTH, "─"), "", *_pairs(explanation.totals)]
    return "\n".join(line.rstrip() for line in lines)


def _step(count: int, step: Step) -> list[str]:
    head, source = f"{count:>2}  {printable(step.formula)}", printable(step.source)
    if len(head) + len(source) + 2 <= WIDTH:
        lines = [head + source.rjust(WIDTH - len(head))]
    else:
        lines = _wrapped(printable(step.formula), f"{count:>2}  ")
        lines += [line.strip().rjust(WIDTH) for line in _wrapped(source)]
    if step.numbers:
        lines += _wrapped(printable(step.numbers))
    cost = [f"{step.multiply_adds:,} multiply-adds"] if step.multiply_adds else []
    cost += [f"{step.bytes:,} bytes"] if step.bytes else []
    if step.shapes:
        lines += _wrapped(";  ".join([printable(step.shapes), *cost]))
    # In columns, so that numbers can be compared down the page.
    numbers = "".join(f"{label} {number(value):<12}" for label, value in step.summary()).rstrip()
    lines += _wrapped(f"{printable(step.name):<{NAME_WIDTH}}{numbers}")
    if step.view == "image" and step.detail is not None and step.detail.shape[1] <= WIDTH - INDENT:
        lines += _picture(step.detail)
    return lines + _entries(step)


def _entries(step: Step) -> list[str]:
    """The values one by one, in columns under their labels; the marked label in brackets."""
    entries = [(printable(label)[:LONGEST_LABEL], number(value)) for label, value in step.entries()]
    if not entries:
        return []
    cells = [(f"[{label}]" if i == step.marked else label, value) for i, (label, value) in enumerate(entries)]
    width = max(len(text) for cell in cells for text in cell) + 1
    per_line = max(1, (WIDTH - INDENT) // width)
    lines = _wrapped(f"{printable(step.about)}:") if step.about else []
    for first in range(0, len(cells), per_line):
        chosen = cells[first : first + per_line]
        lines += [" " * INDENT + "".join(cell[part].rjust(width) for cell in chosen) for part in (0, 1)]
    return lines


def _picture(image: Tensor) -> list[str]:
    """Two rows of pixels a line, since a character is twice as high as it is wide."""
    rows = (
        torch.nn.functional.pad(image.detach().float(), (0, 0, 0, len(image) % 2)).view(-1, 2, image.shape[1]).mean(1)
    )
    levels = (rows.nan_to_num().clamp(0, 1) * (len(SHADES) - 1)).round().long().tolist()
    return [" " * INDENT + "".join(SHADES[level] for level in row) for row in levels]


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[str]:
    width = min(max((len(label) for label, _ in pairs), default=0), LONGEST_LABEL)
    lines = []
    for label, text in pairs:
        lines += _wrapped(printable(text), f"{printable(label)[:LONGEST_LABEL]:<{width}}  ")
    return lines


def _wrapped(text: str, before: str = " " * INDENT) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=before, subsequent_indent=" " * len(before)) or [before]
