import math
from dataclasses import replace

import pytest
import torch

from mlp_lightning.commands.explain.command import walk
from mlp_lightning.commands.explain.step import Explanation, Step
from mlp_lightning.commands.explain.text import render_text
from mlp_lightning.training.module import MLPModule

STEP = Step(
    phase="forward",
    name="Z",
    formula="Z = X W",
    shapes="(2, 3) × (3, 4) → (2, 4)",
    value=torch.arange(8.0).view(2, 4),
    source="package/file.py",
    multiply_adds=24000,
    bytes=1234567,
)


def text_of(*steps: Step, title="title", facts=(), totals=()) -> str:
    return render_text(Explanation(title, facts, steps, totals))


def walked(image_shape=(7, 7), names=(), sizes=(49, 40, 12), **options) -> list[Step]:
    module = MLPModule(hidden=list(sizes[1:-1]), **options)
    module._build(sizes)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, sizes[0], generator=generator)
    return walk(module, x, torch.tensor([0, 1, 2, 3]), 1, image_shape=image_shape, class_names=names)


def test_a_step_says_all_it_has():
    text = text_of(replace(STEP, numbers="X = 7"), facts=[("network", "wide")], totals=[("bytes", "9")])
    for part in ("Z = X W", "package/file.py", "X = 7", STEP.shapes, "24,000 multiply-adds", "1,234,567 bytes"):
        assert part in text
    for part in ("min 0", "mean 3.5", "max 7", f"norm {math.sqrt(140):.4g}", "FORWARD", "network  wide", "bytes  9"):
        assert part in text


def test_costs_of_zero_are_not_mentioned():
    text = text_of(replace(STEP, multiply_adds=0, bytes=0))
    assert "multiply-adds" not in text
    assert "bytes" not in text


def test_phases_are_headed_once():
    steps = [STEP, STEP, replace(STEP, phase="backward"), replace(STEP, phase="backward")]
    text = text_of(*steps)
    assert text.count("FORWARD") == text.count("BACKWARD") == 1
    assert text.index("FORWARD") < text.index("BACKWARD")


def test_few_entries_stand_under_their_labels():
    labels = ("zero", "one", "two")
    value = torch.tensor([[0.5, -0.25, 1e-9], [9.0, 9.0, 9.0]])
    lines = text_of(replace(STEP, value=value, detail=value[0], about="row 0", labels=labels, marked=1)).splitlines()
    heads = next(i for i, line in enumerate(lines) if "zero" in line)
    assert lines[heads].split() == ["zero", "[one]", "two"]
    assert lines[heads + 1].split() == ["0.5", "−0.25", "1e−09"]
    assert "row 0" in lines[heads - 1]
    for label, number in zip(("zero", "[one]", "two"), ("0.5", "−0.25", "1e−09"), strict=True):
        assert lines[heads].index(label) + len(label) == lines[heads + 1].index(number) + len(number)


@pytest.mark.parametrize(("entries", "shown"), [(12, True), (13, False)])
def test_many_entries_are_summed_up(entries, shown):
    value = torch.arange(entries) + 0.5
    assert ("1.5" in text_of(replace(STEP, value=value)).split()) == shown


def test_an_image_is_drawn_dark_where_it_is_large():
    image = torch.zeros(4, 3)
    image[2:, 1] = 1
    lines = text_of(replace(STEP, detail=image, view="image", value=image)).splitlines()
    assert "     █" in lines


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam", "amsgrad": True, "weight_decay": 0.123456789, "clip_norm": 1e-3, "clip_value": 1e-5},
        {"optimizer": "rmsprop", "centered": True, "momentum": 0.123456789, "label_smoothing": 0.123456789},
        {"optimizer": "adam_norm", "class_weights": [1.5] * 12, "label_smoothing": 0.1, "activation": "gelu"},
        {"optimizer": "nadam", "weight_decay": 0.123456789, "decay_biases": False, "lr": 0.00123456789},
        {"optimizer": "muon", "lr": 0.00123456789, "decay_biases": False, "l1": 0.123456789, "max_norm": 1.23456789},
        {"loss": "mse", "activation": "softplus", "lr": 1e30},
        {"image_shape": (1, 400), "sizes": (400, 12)},
        {"image_shape": None, "names": ("a name that is far too long to be shown in full",) * 12},
    ],
    ids=["adam", "rmsprop", "adam_norm", "nadam", "muon", "mse diverging", "wide image", "long names"],
)
def test_no_line_is_longer_than_100_columns(options):
    for line in text_of(*walked(**options)).splitlines():
        assert len(line) <= 100
        assert line == line.rstrip()


def test_words_without_end_are_broken():
    endless = "x" * 350
    step = replace(STEP, **dict.fromkeys(("name", "formula", "shapes", "source", "numbers", "about"), endless))
    text = text_of(step, title=endless, facts=[(endless, endless)], totals=[(endless, endless)])
    assert max(map(len, text.splitlines())) <= 100
    assert text.replace("\n", "").replace(" ", "").count("x") > 2 * 350


def test_control_characters_do_not_reach_the_terminal():
    evil = "\x1b[31mred\x07\r\nnext\u202eback"
    value = torch.zeros(2)
    step = replace(STEP, name=evil, formula=evil, shapes=evil, source=evil, numbers=evil, about=evil, value=value)
    text = text_of(replace(step, labels=(evil, evil)), title=evil, facts=[(evil, evil)], totals=[(evil, evil)])
    assert not any(character in text for character in "\x1b\x07\r\u202e")
    assert "next" not in text.split("\n")


def test_there_are_no_colour_codes():
    assert "\x1b" not in text_of(*walked())


def test_numbers_that_are_not_finite_are_shown():
    value = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    assert {"nan", "inf", "−inf", "0"} <= set(text_of(replace(STEP, value=value)).split())
