import math
import os
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from mlp_lightning.commands.explain.command import walk
from mlp_lightning.commands.explain.html import render_html, write_page
from mlp_lightning.commands.explain.step import Explanation, Step
from mlp_lightning.errors import UserError
from mlp_lightning.training.module import MLPModule

STEP = Step("forward", "Z", "Z = X W", "(2, 3) → (2, 4)", torch.ones(2, 4), "package/file.py")
VOID = {"meta", "img", "rect", "br"}
EVIL = "</style><script>alert('1')</script>\"><img src=\"http://example.org/x.png\" onerror='x'>&amp;\x00"


class Page(HTMLParser):
    """Collects text, tags and attributes; every tag must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def page_of(*steps: Step, title="title", facts=(), totals=()) -> Page:
    return Page(render_html(Explanation(title, facts, steps, totals)))


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    module = MLPModule(hidden=[30, 20], optimizer="adam", clip_norm=0.1, clip_value=0.01, label_smoothing=0.1)
    module._build((49, 30, 20, 10))
    x = torch.rand(4, 49, generator=torch.Generator().manual_seed(0))
    return walk(module, x, torch.tensor([0, 1, 2, 3]), 1, image_shape=(7, 7))


def check_self_contained(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert value.startswith("data:image/png;base64,")
    style = "".join(page.texts)
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_is_self_contained(steps):
    check_self_contained(page_of(*steps))


def test_the_page_shows_every_step(steps):
    page = page_of(*steps, facts=[("network", "small")], totals=[("bytes", "12,345")])
    for step in steps:
        assert step.formula in page.texts
        assert step.source in page.texts
        assert not step.numbers or step.numbers in page.texts
        assert not step.shapes or step.shapes in page.texts
    assert page.tags.count("article") == len(steps)
    assert {"network", "small", "bytes", "12,345"} <= set(page.texts)
    for heading in ("Forward", "Loss", "Backward", "Update", "Afterwards"):
        assert page.texts.count(heading) == 1


def test_every_view_becomes_a_picture(steps):
    page = page_of(*steps)
    pictured = [step for step in steps if step.view != "none"]
    in_overview = [step for step in steps if step.in_overview]
    assert [step.name for step in in_overview] == ["X", "A₁", "A₂", "P"]
    bars = [step for step in (*pictured, *in_overview) if step.view == "bars"]
    assert page.tags.count("svg") == len(bars)
    assert page.tags.count("img") == len(pictured) + len(in_overview) - len(bars)
    assert page.texts.count("→") == len(in_overview) - 1


def test_text_from_outside_is_escaped():
    bars = replace(STEP, detail=torch.ones(2), view="bars", labels=(EVIL, EVIL), in_overview=True)
    named = dict.fromkeys(("name", "formula", "shapes", "source", "numbers", "about"), EVIL)
    heat = replace(STEP, detail=torch.ones(3), view="heat")
    few = replace(STEP, value=torch.ones(2), labels=(EVIL, EVIL))
    steps = [replace(step, **named) for step in (bars, heat, few)]
    page = page_of(*steps, title=EVIL, facts=[(EVIL, EVIL)], totals=[(EVIL, EVIL)])
    check_self_contained(page)
    assert page.texts.count(EVIL.replace("\x00", "\\x00")) >= 4 + 6


def test_numbers_that_are_not_finite_are_shown():
    value = torch.tensor([math.nan, math.inf, -math.inf])
    for view in ("bars", "heat"):
        page = page_of(replace(STEP, value=value, detail=value, view=view))
        assert {"nan", "inf", "−inf"} <= {text.strip() for text in page.texts}


def test_write_page_replaces_what_was_there(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    write_page("neu → Σ", path)
    assert path.read_text(encoding="utf-8") == "neu → Σ"
    assert os.listdir(tmp_path) == ["page.html"]


@pytest.mark.parametrize(
    "name", ["missing/page.html", "", "a\x00b", "x" * 300], ids=["no folder", "folder", "nul", "long"]
)
def test_a_path_that_cannot_be_written_is_named(tmp_path, name):
    with pytest.raises(
        UserError, match=r"--html: got .*, must be a file in an existing, writable folder \(.+\)"
    ) as error:
        write_page("page", tmp_path / name)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"--html: got .*page.html.*No space left on device"):
        write_page("new", path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]
