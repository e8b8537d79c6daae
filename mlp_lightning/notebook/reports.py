"""What ``check`` and ``explain`` found, as text and for Jupyter."""

import html
from dataclasses import dataclass

from mlp_lightning.commands.explain.html import render_html
from mlp_lightning.commands.explain.step import Explanation
from mlp_lightning.commands.explain.text import render_text


@dataclass(frozen=True)
class Report:
    """The tables of ``check``; true where every row passed."""

    passed: bool
    text: str

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


@dataclass(frozen=True)
class Walk:
    """One training step, explained; ``explanation.steps`` are its operations with their results."""

    explanation: Explanation

    @property
    def page(self) -> str:
        """A page of its own, without scripts or addresses."""
        return render_html(self.explanation)

    def __str__(self) -> str:
        return render_text(self.explanation)

    def _repr_html_(self) -> str:
        # A page has a style of its own.
        return f'<iframe srcdoc="{html.escape(self.page)}" width="100%" height="600" sandbox></iframe>'
