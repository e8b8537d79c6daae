"""The config that ``init`` writes: choices that follow from the data, each with its reason."""

import itertools
import math
import textwrap
from typing import Any, NamedTuple

import torch
import yaml

from mlp_lightning.commands.init.look import Sight
from mlp_lightning.data.preprocessing import ArrayPreprocessing
from mlp_lightning.training.callbacks.tables import imbalance

WIDTH = 118
# Adam needs some thousand steps, however few the samples.
STEPS = 3000
FEWEST_EPOCHS, MOST_EPOCHS = 15, 100
# Features that reach beyond this are no pixels and not standardised.
LARGE_FEATURE = 10.0
SAMPLES_LOOKED_AT = 1000
# Lightning's steps between two records; an epoch shall have at least one.
RECORD_EVERY = 50
ORDER = ("dataset", "root", "test_path", "label")


class Scale(NamedTuple):
    """Choices for so many training samples at most."""

    samples: float
    hidden: list[int]
    batch_size: int
    lr: float


SCALES = (
    Scale(500, [32, 16], 16, 0.003),
    Scale(2000, [64, 32], 32, 0.003),
    Scale(10_000, [128, 64], 64, 0.002),
    Scale(30_000, [256, 128], 128, 0.001),
    Scale(math.inf, [500, 250, 100], 128, 0.001),
)


class Line(NamedTuple):
    """An option and why it has its value."""

    name: str
    value: Any
    reason: str = ""


def config_text(sight: Sight) -> str:
    """The whole file."""
    lines = _comment("Written by init, which looked at the data. Change what you like: fit --help tells more.")
    lines += _comment(f"Seen: {sight.summary}.")
    lines += _comment(_classes(sight))
    for seen in sight.seen:
        lines += _comment(f"{seen[0].upper()}{seen[1:]}.")
    for group, options in (("trainer", _trainer(sight)), ("model", _model(sight)), ("data", _data(sight))):
        lines.append(f"{group}:")
        for name, value, reason in options:
            if reason:
                lines += _comment(reason[0].upper() + reason[1:] + ".", indent="  ")
            lines.append(f"  {name}: {_yaml(value)}")
    return "\n".join(lines) + "\n"


def _scale(sight: Sight) -> Scale:
    return next(scale for scale in SCALES if sight.n_train <= scale.samples)


def _batch_size(sight: Sight) -> int:
    return sight.options.get("batch_size", _scale(sight).batch_size)


def _trainer(sight: Sight) -> list[Line]:
    steps = math.ceil(sight.n_train / _batch_size(sight))
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / steps)))
    lines = [Line("max_epochs", epochs, f"{steps:,} steps an epoch, {epochs * steps:,} in all")]
    return [*lines, Line("log_every_n_steps", steps)] if steps < RECORD_EVERY else lines


def _model(sight: Sight) -> list[Line]:
    scale, data = _scale(sight), sight.data
    sizes = [data.n_features, *scale.hidden, data.n_classes]
    parameters = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
    reason = f"widths of the hidden layers, for {sight.n_train:,} training samples: {parameters:,} weights and biases"
    lines = [Line("hidden", scale.hidden, reason), Line("activation", "relu"), Line("init", "he_normal")]
    some = torch.arange(min(len(data.train_x), SAMPLES_LOOKED_AT))
    largest = float(data.train_x.index_select(0, some).abs().max())
    if isinstance(data.preprocessing, ArrayPreprocessing) and largest > LARGE_FEATURE:
        lines.append(Line("norm", "batch", f"features reach {largest:,.4g}; this norm makes up for their scales"))
    warning = imbalance(data.class_names, sight.counts["train"])
    if warning is not None and int(sight.counts["train"].min()) > 0:
        reason = "the smallest class is much smaller than the largest; so all weigh as much in the loss, n / (K · n_k)"
        lines.append(Line("class_weights", "balanced", reason))
    if parameters > sight.n_train and sight.n_train <= SCALES[2].samples:
        reason = "more parameters than samples: weights that the data do not hold up shrink towards 0"
        lines += [Line("optimizer", "adamw", reason), Line("weight_decay", 0.01)]
    else:
        lines.append(Line("optimizer", "adam"))
    reason = "rises for an epoch, and falls to 0 along a cosine; larger for few samples, whose epochs have few steps"
    return [*lines, Line("lr", scale.lr, reason), Line("schedule", "cosine"), Line("warmup_epochs", 1.0)]


def _data(sight: Sight) -> list[Line]:
    options = {"batch_size": _batch_size(sight), **sight.options}
    reasons = {"root": "files are named in full, so that the config works from any folder", **sight.reasons}
    names = [name for name in ORDER if name in options]
    names += [name for name in options if name not in ORDER]
    return [Line(name, options[name], reasons.get(name, "")) for name in names]


def _classes(sight: Sight) -> str:
    counts, names = sight.counts["train"], sight.data.class_names
    shown = [f"{name} {int(count):,}" for name, count in zip(names, counts, strict=True)]
    if len(shown) > 20:
        least, most = int(counts.argmin()), int(counts.argmax())
        shown = [f"from {shown[least]}", f"to {shown[most]}"]
    return f"Training samples by class: {', '.join(shown)}."


def _comment(text: str, indent: str = "") -> list[str]:
    # Names come from files: whatever is in them, a comment must not end before its line does.
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return textwrap.wrap(plain, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


class _Dumper(yaml.SafeDumper):
    """Quotes texts such as 1e3, which the reader of configs takes for a number, and PyYAML does not."""


def _quoted(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if value[:1].isalpha() else "'" if value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _quoted)


def _yaml(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n...\n").strip()
