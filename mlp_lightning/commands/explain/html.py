"""An explanation as one self-contained page: no scripts, no addresses, to project or to print."""

import html
from collections.abc import Sequence
from pathlib import Path

from mlp_lightning.commands.explain.pictures import picture_of
from mlp_lightning.commands.explain.step import Explanation, Step, number
from mlp_lightning.commands.inert import inert
from mlp_lightning.errors import UserError
from mlp_lightning.files.atomic import written_beside
from mlp_lightning.printable import printable

HEADINGS = {
    "forward": ("Forward", "from the samples to the logits, layer by layer"),
    "loss": ("Loss", "how wrong the outputs are, as one number"),
    "backward": ("Backward", "the chain rule from the loss to every weight and bias"),
    "adversary": ("Adversary", "the step in the input that moves the outputs most, and what to learn from it"),
    "update": ("Update", "what the gradient does to the weights"),
    "afterwards": ("Afterwards", "the same minibatch with the new weights; no part of the training step"),
}

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 36px 32px 64px; background: #fff; color: #1d2129;
  font: 16px/1.5 "Segoe UI", "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 36px; line-height: 1.2; margin: 0 0 18px; letter-spacing: -0.01em; }
h2 { font-size: 27px; margin: 52px 0 4px; padding-top: 14px; border-top: 3px solid var(--accent, #1d2129);
  color: var(--accent, #1d2129); break-after: avoid; }
h2 small { font-size: 17px; font-weight: 400; color: #596170; margin-left: 10px; }
dl.pairs { display: grid; grid-template-columns: max-content 1fr; gap: 3px 22px; margin: 0; }
dl.pairs dt { color: #596170; } dl.pairs dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.overview { display: flex; flex-wrap: wrap; align-items: center; justify-content: space-between;
  gap: 10px; margin: 30px 0 0; padding: 20px 26px;
  background: #f5f7fa; border-radius: 8px; break-inside: avoid; }
.overview figure { margin: 0; text-align: center; } .overview .arrow { font-size: 26px; color: #98a1b0; }
.overview figcaption { font-family: var(--math); font-size: 19px; margin-top: 4px; }
:root { --math: "STIX Two Text", "Cambria", "Georgia", "DejaVu Serif", "Liberation Serif", serif; }
.forward { --accent: #1f5fa6; } .loss { --accent: #7a3f9d; } .backward { --accent: #b04326; }
.adversary { --accent: #94701a; } .update { --accent: #2c7a4b; } .afterwards { --accent: #596170; }
article { display: grid; grid-template-columns: minmax(0, 1fr); gap: 12px 32px;
  padding: 18px 0 18px 20px; margin-top: 14px; border-left: 4px solid var(--accent); break-inside: avoid; }
article + article { border-top: 1px solid #e4e7ec; margin-top: 0; }
.words { min-width: 0; }
.formula { font: 25px/1.35 var(--math); margin: 0; overflow-wrap: anywhere; }
.count { font: 600 14px/1 "Liberation Sans", Arial, sans-serif; color: var(--accent); margin-right: 12px;
  vertical-align: 3px; }
.numbers { font: 19px/1.4 var(--math); margin: 4px 0 0; color: #333b49; overflow-wrap: anywhere; }
.shapes { font: 16px/1.5 "DejaVu Sans Mono", Consolas, monospace; margin: 8px 0 0; color: #333b49;
  overflow-wrap: anywhere; }
.stats { display: flex; flex-wrap: wrap; gap: 2px 24px; margin: 8px 0 0; font-variant-numeric: tabular-nums; }
.stats em { font: italic 17px/1.4 var(--math); }
.stats b { font-weight: 400; color: #596170; margin-right: 6px; }
.cost { margin: 6px 0 0; font-size: 14px; color: #596170; }
code { font: 13px "DejaVu Sans Mono", Consolas, monospace; }
.beside { grid-template-columns: minmax(0, 1fr) 402px; }
article figure { margin: 0; align-self: center; }
figcaption { font-size: 14px; color: #596170; margin-top: 4px; }
.cells { image-rendering: pixelated; display: block; border: 1px solid #c9ced6; }
.overview .cells { margin: 0 auto; }
.scale { display: flex; align-items: center; gap: 8px; font-variant-numeric: tabular-nums; }
.scale i { flex: none; width: 110px; height: 9px; border: 1px solid #c9ced6;
  background: linear-gradient(to right, #053061, #4393c3, #f7f7f7, #d6604d, #67001f); }
svg { display: block; }
svg text { font: 15px "Segoe UI", "Helvetica Neue", "Liberation Sans", Arial, sans-serif; fill: #1d2129; }
.entries { border-collapse: collapse; margin-top: 8px; font-size: 15px; font-variant-numeric: tabular-nums; }
.entries th { font-weight: 400; color: #596170; }
.entries th, .entries td { padding: 1px 14px 1px 0; text-align: right; }
@media (max-width: 900px) { .beside { grid-template-columns: minmax(0, 1fr); }
  img, svg { max-width: 100%; height: auto; } }
@media print { body { padding: 0; max-width: none; font-size: 13px; } .formula { font-size: 19px; }
  .numbers { font-size: 15px; } .shapes { font-size: 12px; } * { print-color-adjust: exact; }
  .cells { max-width: 100%; height: auto; }
  .overview { zoom: 0.62; } .entries { font-size: 11px; } .entries th, .entries td { padding-right: 8px; }
  .beside { grid-template-columns: minmax(0, 1fr) 260px; } .beside figure > * { max-width: 260px; height: auto; } }
"""


def render_html(explanation: Explanation) -> str:
    """The page: facts, overview, one section a phase with one article an operation, totals."""
    title = _text(explanation.title)
    body = [f"<h1>{title}</h1>", _pairs(explanation.facts), _overview(explanation.steps)]
    phase = None
    for count, step in enumerate(explanation.steps, start=1):
        if step.phase != phase:
            body.append("</section>" if phase else "")
            phase = step.phase
            heading, about = HEADINGS[phase]
            body.append(f'<section class="{phase}"><h2>{heading}<small>{about}</small></h2>')
        body.append(_article(count, step))
    body += ["</section>" if phase else "", "<h2>Totals</h2>", _pairs(explanation.totals)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{chr(10).join(filter(None, body))}\n"
        "</body>\n</html>\n"
    )


def write_page(page: str, path: Path) -> None:
    """Write ``page`` so that ``path`` holds all of it or what it held before.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with written_beside(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"--html: got {printable(str(path))}, must be a file in an existing, writable folder ({reason})"
        raise UserError(message) from error


def _overview(steps: Sequence[Step]) -> str:
    figures = []
    for step in steps:
        picture = picture_of(step, small=True) if step.in_overview else None
        if picture is not None:
            figures.append(f"<figure>{picture.markup}<figcaption>{_text(step.name)}</figcaption></figure>")
    arrow = '<span class="arrow">→</span>'
    return f'<div class="overview">{arrow.join(figures)}</div>' if figures else ""


def _article(count: int, step: Step) -> str:
    words = [f'<p class="formula"><span class="count">{count}</span>{_text(step.formula)}</p>']
    if step.numbers:
        words.append(f'<p class="numbers">{_text(step.numbers)}</p>')
    if step.shapes:
        words.append(f'<p class="shapes">{_text(step.shapes)}</p>')
    summary = "".join(f"<span><b>{label}</b>{number(value)}</span>" for label, value in step.summary())
    words.append(f'<p class="stats"><em>{_text(step.name)}</em>{summary}</p>')
    picture = picture_of(step)
    if step.view != "bars":
        words.append(_entries(step))
    cost = [f"{step.multiply_adds:,} multiply-adds"] if step.multiply_adds else []
    cost += [f"{step.bytes:,} bytes"] if step.bytes else []
    words.append(f'<p class="cost">{" · ".join([*cost, f"<code>{_text(step.source)}</code>"])}</p>')
    figure = ""
    if picture is not None:
        scale = "" if picture.limit is None else _scale(picture.limit)
        about = ": ".join(filter(None, (step.about, picture.caption)))
        caption = f"<figcaption>{_text(about)}{scale}</figcaption>"
        figure = f"<figure>{picture.markup}{caption}</figure>"
    kind = "beside" if picture is not None and not picture.wide else "below"
    return f'<article class="{kind}"><div class="words">{"".join(words)}</div>{figure}</article>'


def _entries(step: Step) -> str:
    entries = step.entries()
    if not entries:
        return ""
    heads = "".join(f"<th>{_text(inert(label))}</th>" for label, _ in entries)
    cells = "".join(f"<td>{number(value)}</td>" for _, value in entries)
    return f'<table class="entries"><tr>{heads}</tr><tr>{cells}</tr></table>'


def _scale(limit: float) -> str:
    return f'<span class="scale">{number(-limit)}<i></i>{number(limit)}</span>'


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{_text(label)}</dt><dd>{_text(text)}</dd>" for label, text in pairs)
    return f'<dl class="pairs">{rows}</dl>'


def _text(text: str) -> str:
    return html.escape(printable(text))
