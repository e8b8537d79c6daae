"""The results as one Markdown table: a row for each contender, with its times as multiples of ``fit``'s."""

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
    """The table, the notebook's method below it, and where and when all was measured."""
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
    for name, result in results.items():
        lines.append(f"- {name}.py: {result['machine']}, {result['date']}")
    return "\n".join(lines)


def _ratio(row: dict[str, Any]) -> str:
    reached = [ratio for ratio in row["ratios"] if ratio is not None]
    if not reached:
        return "not reached"
    count = "" if len(reached) == len(row["ratios"]) else f", {len(reached)} of {len(row['ratios'])}"
    return f"{spread(reached)}{count}"


def _seconds(row: dict[str, Any]) -> str:
    reached = [seconds for seconds in row["seconds"] if seconds is not None]
    return f"{statistics.median(reached):.2f} s" if reached else "not reached"
