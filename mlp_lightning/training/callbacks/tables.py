"""Tables for the terminal: data and network before training, the results after it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.nn import MLP
from mlp_lightning.printable import printable

# How many times the samples of another class are many.
IMBALANCE = 5


def format_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text padded to the widest cell, under a first row that is ruled off; every cell is printable."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def network_table(network: MLP, activation: str) -> str:
    """One line a layer: shapes and number of parameters."""
    rows = [("layer", "weight", "bias", "activation", "parameters")]
    last = len(network.layers) - 1
    follows = f"{network.norm} norm, {activation}" if network.norms else activation
    for k, layer in enumerate(network.layers):
        shape = " × ".join(str(size) for size in layer.weight.shape)
        parameters = layer.weight.numel() + layer.bias.numel()
        if k < len(network.norms):
            parameters += network.norms[k].gamma.numel() + network.norms[k].beta.numel()
        rows.append((f"{k}", shape, f"{len(layer.bias)}", follows if k < last else "none", f"{parameters:,}"))
    rows.append(("all", "", "", "", f"{network.flat.numel():,}"))
    return format_table(rows)


def data_table(class_names: Sequence[str], counts: Mapping[str, Tensor]) -> str:
    """How many samples each part of the data has, in all, of its largest class and of its smallest.

    Args:
        class_names: K names.
        counts: by the part's name, the samples of each class ``(K,)``; an empty part is left out.
    """
    shown = {name: part for name, part in counts.items() if int(part.sum())}
    rows = [("data", *shown), ("samples", *(f"{int(part.sum()):,}" for part in shown.values()))]
    for name, extreme in (("largest class", torch.argmax), ("smallest class", torch.argmin)):
        found = [(int(extreme(part)), part) for part in shown.values()]
        rows.append((name, *(f"{int(part[k]):,} of {class_names[k]}" for k, part in found)))
    return format_table(rows)


def imbalance(class_names: Sequence[str], counts: Tensor) -> str | None:
    """A warning where the largest class has over ``IMBALANCE`` times the samples of the smallest; None elsewhere."""
    most, least = int(counts.argmax()), int(counts.argmin())
    if int(counts[most]) <= IMBALANCE * int(counts[least]):
        return None
    return (
        f"warning: class {class_names[most]} has {int(counts[most]):,} training samples, class {class_names[least]} "
        f"{int(counts[least]):,}; model.class_weights: balanced lets both weigh as much"
    )


def results_table(metrics: dict[str, Any]) -> str:
    """What ``metrics.json`` holds about results and time: losses, accuracies in all and by class, seconds.

    Each accuracy names the weights it is of. A validation before the last step is told with its own step.
    """
    rows = [("result", "value")]
    weights = metrics.get("weights")
    for part in ("val", "test"):
        of = ""
        if weights is not None:
            own = metrics.get(f"{part}/step", weights["step"]) == weights["step"]
            file = weights["file"] or "last weights"
            of = f" ({file}, epoch {weights['epoch']})" if own else f" (at step {metrics[f'{part}/step']:,})"
        if f"{part}/loss" in metrics:
            rows.append((f"{part} loss", f"{metrics[f'{part}/loss']:.4f}"))
            rows.append((f"{part} accuracy", f"{metrics[f'{part}/accuracy']:.2%}{of}"))
        if f"{part}/raw_accuracy" in metrics:
            rows.append((f"{part} accuracy, weights not averaged", f"{metrics[f'{part}/raw_accuracy']:.2%}"))
        if f"{part}/deformed_accuracy" in metrics:
            rows.append((f"{part} accuracy over deformed copies", f"{metrics[f'{part}/deformed_accuracy']:.2%}"))
    if "test/class_accuracy" in metrics:
        shares = metrics["test/class_accuracy"].items()
        rows += [(f"  class {name}", "no samples" if share is None else f"{share:.2%}") for name, share in shares]
    if metrics.get("skipped_steps"):
        rows.append(("steps skipped, not finite", f"{metrics['skipped_steps']:,} of {metrics['steps']:,}"))
    if "seconds" in metrics:
        rows.append(("seconds", f"{metrics['seconds']:.1f}, of which {metrics['train_seconds']:.1f} in training steps"))
        rows.append(("images per second", f"{metrics['images_per_second']:,.0f}"))
    return format_table(rows)
