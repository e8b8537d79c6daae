"""The results as Markdown tables: a row for each contender, its times as multiples of ``fit``'s; and how cost grows."""

import statistics
from typing import Any

from timing import Spread, spread

Rows = list[dict[str, Any]]
Results = dict[str, dict[str, Any]]

# In the race for accuracy ``fit`` appears without its command, so that a test can follow every epoch.
FIT, TRAINER = "fit", "trainer"


def rows(results: Results, name: str) -> Rows:
    """What a benchmark found; nothing if it was not run."""
    return results[name]["rows"] if name in results else []


def markdown(results: Results) -> str:
    """The tables, the notebook's method between them, and where and when all was measured."""
    columns: dict[str, dict[str, str]] = {}
    for row in rows(results, "epoch"):
        cell = _seconds(row) if row["name"] == FIT else str(Spread(*row["ratio"]))
        columns.setdefault(f"epoch, batch {row['batch_size']}", {})[row["name"]] = cell
    for row in rows(results, "accuracy_time"):
        name = FIT if row["name"] == TRAINER else row["name"]
        columns.setdefault(f"to {row['target']:.1%}", {})[name] = _seconds(row) if name == FIT else _ratio(row)
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    lines = [f"| time / fit's | {' | '.join(columns)} |", f"| - {'| - ' * len(columns)}|"]
    lines += [f"| {name} | {' | '.join(cells.get(name, '') for cells in columns.values())} |" for name in names]
    lines.append("")
    lines += [
        f"The notebook's method, sample by sample, takes {Spread(*row['ratio'])} times as long as fit.\n"
        for row in rows(results, "notebook")
        if row["name"] == "sample by sample"
    ]
    lines += growth(rows(results, "growth"))
    for name, result in results.items():
        lines.append(f"- {name}.py: {result['machine']}, {result['date']}")
    return "\n".join(lines)


def growth(found: Rows) -> list[str]:
    """A row for each thing that grows, with the slopes of the multiply-adds and of each step's time."""
    if not found:
        return []
    names = dict.fromkeys(row["name"] for row in found)
    cells: dict[str, dict[str, str]] = {}
    for row in found:
        what = cells.setdefault(row["growing"], {"multiply-adds": f"{row['expected']:.2f}"})
        what[row["name"]] = f"{row['slope']:.2f}"
    columns = ["multiply-adds", *names]
    lines = [f"| slope over | {' | '.join(columns)} |", f"| - {'| - ' * len(columns)}|"]
    lines += [f"| {what} | {' | '.join(of.get(name, '') for name in columns)} |" for what, of in cells.items()]
    return [*lines, ""]


def _ratio(row: dict[str, Any]) -> str:
    reached = [ratio for ratio in row["ratios"] if ratio is not None]
    if not reached:
        return "not reached"
    count = "" if len(reached) == len(row["ratios"]) else f", {len(reached)} of {len(row['ratios'])}"
    return f"{spread(reached)}{count}"


def _seconds(row: dict[str, Any]) -> str:
    reached = [seconds for seconds in row["seconds"] if seconds is not None]
    return f"{statistics.median(reached):.2f} s" if reached else "not reached"
