"""The curves of a training: numbers by name, a figure, and a small picture for Jupyter."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, MARGIN = 360, 160, 8
COLOURS = {"train/loss": "#1f5fa6", "val/loss": "#b04326"}
SHOWN = ("train/loss", "val/loss", "val/accuracy")


class History(dict[str, tuple[list[int], list[float]]]):
    """Steps and values of each curve by its name: ``history["val/loss"]`` is ``(steps, values)``."""

    def plot(self, title: str = "training") -> Figure:
        """A figure of losses and accuracy."""
        from mlp_lightning.figures.curves import curves_figure

        return curves_figure({name: self[name] for name in SHOWN if name in self}, title)

    def _repr_html_(self) -> str:
        """The losses as curves, and the last value of each name."""
        last = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{values[-1]:.4g}</td></tr>" for name, (_, values) in self.items()
        )
        return f"{self._picture()}<table><tr><th>curve</th><th>last value</th></tr>{last}</table>"

    def _picture(self) -> str:
        losses = {name: self[name] for name in COLOURS if name in self}
        if not losses:
            return ""
        last = max(steps[-1] for steps, _ in losses.values())
        top = max(max(values) for _, values in losses.values()) or 1.0
        lines = []
        for name, (steps, values) in losses.items():
            places = [
                (MARGIN + (WIDTH - 2 * MARGIN) * step / last, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / top)
                for step, value in zip(steps, values, strict=True)
            ]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            lines.append(
                f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2">'
                f"<title>{name}</title></polyline>"
            )
        return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="losses">{"".join(lines)}</svg>'
