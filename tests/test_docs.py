"""The guide and the README: Python blocks run, relative links lead to files, every choice is explained."""

import re
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_lightning.nn import ACTIVATIONS, INITIALIZERS, LOSSES
from mlp_lightning.optim import OPTIMIZERS
from mlp_lightning.training.options import (
    ADVERSARY_OPTIONS,
    AVERAGING_OPTIONS,
    OPTIMIZER_OPTIONS,
    SCHEDULE_OPTIONS,
    SCHEDULES,
)

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "guide" / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
CHAPTERS = sorted(
    (page for page in PAGES if page.parent == INDEX.parent and page != INDEX),
    key=lambda page: int(page.name.partition("-")[0]),
)
CHOICES = [*ACTIVATIONS, *LOSSES, *INITIALIZERS, *OPTIMIZERS, *SCHEDULES, "ema", "swa", "warmup"]
OPTIONS = [
    *OPTIMIZER_OPTIONS,
    *SCHEDULE_OPTIONS,
    *AVERAGING_OPTIONS,
    "label_smoothing",
    "class_weights",
    "reduction",
    "norm",
    "dropout",
    "input_dropout",
    "vat",
    *ADVERSARY_OPTIONS,
    "clip_norm",
    "clip_value",
    "l1",
    "max_norm",
]

ANY_BLOCK = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"""\]\(\s*([^)\s]+)[^)]*\)|(?:src|href)=["']([^"']+)["']""")
HAS_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run_blocks(page: Path) -> dict[str, Any]:
    """Run the page's Python blocks in order in one namespace, which is returned."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in PYTHON_BLOCK.finditer(text):
        # The blank lines give the code the line numbers of its page.
        code = "\n" * text.count("\n", 0, block.start(1)) + block[1]
        try:
            exec(compile(code, str(page), "exec"), namespace)
        except Exception as error:
            pytest.fail(f"{page}:{line_of(error, page)}: {type(error).__name__}: {error}", pytrace=False)
    return namespace


def line_of(error: Exception, page: Path) -> int | None:
    """Which line of the page's blocks raised the error."""
    if isinstance(error, SyntaxError):
        return error.lineno
    return next(frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(page))


def broken_links(page: Path) -> list[str]:
    """The page's relative links, images included, that lead to no file or folder."""
    text = CODE_SPAN.sub("", ANY_BLOCK.sub("", page.read_text(encoding="utf-8")))
    targets = [markdown or html for markdown, html in LINK.findall(text)]
    relative = [target.partition("#")[0] for target in targets if not HAS_SCHEME.match(target)]
    return [target for target in relative if target and not (page.parent / target).exists()]


# Lightning's, of a loader without workers on a machine of many processors, and of its own code.
@pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*treespec")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run_and_draw_no_global_randomness(page):
    before = torch.get_rng_state()
    run_blocks(page)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_readmes_python_trains(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run_blocks(README)["accuracy"] > 0.93


def test_the_readmes_python_predicts(tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    small = ["--model.hidden", "[32]", "--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false"]
    run_main("fit", "--config", "fast.yaml", *small)
    namespace: dict[str, Any] = {}
    exec(re.search(r"^```py\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1], namespace)
    assert namespace["accuracy"] > 0.8
    assert namespace["prediction"].label == str(int(namespace["data"].test_y[2]))


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_relative_links_lead_to_files(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", CHAPTERS, ids=name_of)
def test_every_chapter_proves_something_and_leads_to_its_tests(page):
    text = page.read_text(encoding="utf-8")
    assert any("assert " in block for block in PYTHON_BLOCK.findall(text))
    assert "](../../tests/" in text


def test_the_index_lists_the_chapters_in_order():
    listed = re.findall(r"^\d+\. \[.*?\]\((.*?)\)", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [page.name for page in CHAPTERS]


@pytest.mark.parametrize("name", dict.fromkeys(CHOICES + OPTIONS))
def test_every_choice_is_in_the_guide(name):
    assert any(f"`{name}`" in page.read_text(encoding="utf-8") for page in CHAPTERS)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        pytest.param("x = 1\nassert x == 2\n", "page.md:5: AssertionError", id="assertion"),
        pytest.param("x = 1\ny = = 2\n", "page.md:5: SyntaxError", id="syntax"),
        pytest.param("import torch\ntorch.zeros(2) @ torch.zeros(3)\n", "page.md:5: RuntimeError", id="inside-torch"),
    ],
)
def test_a_failing_block_names_page_and_line(tmp_path, block, message):
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n```python\n{block}```\n", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match=re.escape(message)):
        run_blocks(page)


def test_blocks_share_a_namespace_and_other_languages_are_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```yaml\nx: [\n```\n\n```python\nx += 1\n```\n", encoding="utf-8")
    assert run_blocks(page)["x"] == 2


def test_broken_links_are_found(tmp_path):
    (tmp_path / "there.md").touch()
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [a](there.md#part) [a](#part) [a](https://doi.org/1) [a](gone.md)\n"
        '![a](gone.png "title") <img src="gone.svg"> `[a](code.md)`\n\n```text\n[a](block.md)\n```\n',
        encoding="utf-8",
    )
    assert broken_links(page) == ["gone.md", "gone.png", "gone.svg"]


def test_ci_runs_the_test_command_of_the_readme():
    command = "pip install -e '.[test]' && python -m pytest"
    assert f"    {command}\n" in README.read_text(encoding="utf-8")
    assert command in (README.parent / ".ci" / "run").read_text(encoding="utf-8").splitlines()
