"""Tables for the terminal: the network before training, the results after it."""

from collections.abc import Sequence
from typing import Any

from mlp_lightning.nn import MLP


def format_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text padded to the widest cell, under a first row that is ruled off."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def network_table(network: MLP, activation: str) -> str:
    """One line a layer: shapes and number of parameters."""
    rows = [("layer", "weight", "bias", "activation", "parameters")]
    last = len(network.layers) - 1
    for k, layer in enumerate(network.layers):
        shape = " × ".join(str(size) for size in layer.weight.shape)
        parameters = layer.weight.numel() + layer.bias.numel()
        rows.append((f"{k}", shape, f"{len(layer.bias)}", activation if k < last else "none", f"{parameters:,}"))
    rows.append(("all", "", "", "", f"{network.flat.numel():,}"))
    return format_table(rows)


def results_table(metrics: dict[str, Any]) -> str:
    """What ``metrics.json`` holds about results and time: losses, accuracies in all and by class, seconds."""
    rows = [("result", "value")]
    for part in ("val", "test"):
        if f"{part}/loss" in metrics:
            rows.append((f"{part} loss", f"{metrics[f'{part}/loss']:.4f}"))
            rows.append((f"{part} accuracy", f"{metrics[f'{part}/accuracy']:.2%}"))
    if "test/class_accuracy" in metrics:
        shares = metrics["test/class_accuracy"].items()
        rows += [(f"  class {name}", "no samples" if share is None else f"{share:.2%}") for name, share in shares]
    if "seconds" in metrics:
        rows.append(("seconds", f"{metrics['seconds']:.1f}, of which {metrics['train_seconds']:.1f} in training steps"))
        rows.append(("images per second", f"{metrics['images_per_second']:,.0f}"))
    return format_table(rows)
