"""Configs that no one writes by accident, and some that everyone does: each ends in one line that names the file."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlp_lightning.commands.compare import runs


def bomb(depth: int) -> str:
    """Each line stands for nine of the one before it (the billion laughs)."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for this, last in zip("bcdefghi"[:depth], "abcdefgh"[:depth], strict=True):
        lines.append(f"{this}: &{this} [{', '.join(['*' + last] * 9)}]")
    return "\n".join(lines)


UNREADABLE = "is not a readable YAML file"
ROWS: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "key twice": ("model: {lr: 0.1, lr: 0.2}", ("the key lr stands twice, in the group of line 1",)),
    "group twice": ("model:\n  lr: 0.1\nmodel:\n  lr: 0.2", ("the key model stands twice",)),
    "key twice, deep": ("data:\n  deform:\n    scale: 0.1\n    scale: 0.2", ("the key scale stands twice", "line 3")),
    "bomb": (bomb(8), (UNREADABLE, "aliases", "100,000")),
    "refers to itself": ("model: &m\n  hidden: *m", ("nested too deeply, or refers to itself",)),
    "alias without an anchor": ("model: {lr: *m}", (UNREADABLE, "undefined alias")),
    "deep list": ("[" * 3000, ("nested too deeply",)),
    "deep groups": ("model: " + "{a: " * 1500, ("nested too deeply",)),
    "two documents": ("model: {lr: 0.1}\n---\nmodel: {lr: 0.2}", (UNREADABLE, "single document")),
    "python name": ("model: !!python/name:os.system", (UNREADABLE, "could not determine a constructor")),
    "python object": ("model: {lr: !!python/object/apply:os.system ['touch pwned']}", (UNREADABLE, "constructor")),
    "python module": ("!!python/module:os", (UNREADABLE, "constructor")),
    "tag of another program": ("model: !foo {lr: 1}", (UNREADABLE, "!foo")),
    "utf-16": ("model: {lr: 0.1}".encode("utf-16"), (UNREADABLE, "utf-8")),
    "latin-1": ("model: {lr: 0.1} # \xe9".encode("latin-1"), (UNREADABLE, "utf-8")),
    "tab": ("model:\n\tlr: 1", (UNREADABLE, "cannot start any token")),
    "NUL": ("model: {lr: \0}", (UNREADABLE, "special characters")),
    "key that is a list": ("? [a]\n: b", (UNREADABLE, "unhashable")),
    "key null": ("null: 3", ("the key None", "options by name")),
    "key true": ("true: 3", ("the key True", "options by name")),
    "another version of YAML": ("%YAML 9.9\n---\nmodel: {}", (UNREADABLE, "9.9")),
    "merge of no group": ("model: {<<: 3}", (UNREADABLE, "mapping")),
    "group that is a list": ("model: [1]", ("model: got [1]", "options by name")),
    "group that is a date": ("trainer: 2026-01-01", ("trainer: got 2026-01-01", "options by name")),
    "inner group that is a list": ("data: {deform: [1]}", ("data.deform: got [1]", "options by name")),
    "one long word": ("a" * 100_000, ("holds 'aaa", "options by name")),
    "empty list": ("[]", ("holds []",)),
    "number": ("1e400", ("holds", "options by name")),
}


@pytest.fixture(autouse=True)
def no_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a fit was started")

    monkeypatch.setattr(runs.Children, "run", refuse)


@pytest.mark.parametrize("name", ROWS)
def test_config_of_compare(name: str, here: Path, error_of: Callable[..., str]) -> None:
    held, expected = ROWS[name]
    (here / "it.yaml").write_bytes(held.encode() if isinstance(held, str) else held)
    started = time.monotonic()
    message = error_of("compare it.yaml --seeds 1")
    assert all(part in message for part in ("it.yaml", *expected)), message
    assert len(message) < 600
    assert time.monotonic() - started < 10
    assert not (here / "pwned").exists()


# The same reader, before the options are parsed; types are told by the parser.
FITTED = {
    "bomb": ROWS["bomb"],
    "key twice": ROWS["key twice"],
    "list for a number": ("model: {lr: [0.1]}", ("model.lr: got [0.1]", "a number")),
    "group for a number": ("model: {lr: {a: 1}}", ("model.lr: got {'a': 1}", "a number")),
    "bytes for a number": ("model: {lr: !!binary aGk=}", ("model.lr: got b'hi'", "a number")),
    "dates for widths": ("model: {hidden: [2026-01-01]}", ("model.hidden: got 2026-01-01", "a whole number")),
    "date for a seed": ("seed_everything: 2026-01-01", ("seed_everything: got 2026-01-01", "a whole number")),
    "false for an activation": ("model: {activation: no}", ("model.activation: got false", "relu")),
    "true for a count": ("trainer: {max_epochs: yes}", ("trainer.max_epochs: got true", "a whole number")),
    "number for a key": ("model: {3: 4}", ("it.yaml has the key 3", "options by name")),
    "infinity": ("model: {lr: 1.0e+400}", ("model.lr", "inf", "finite")),
    "program for a logger": (
        "trainer: {logger: {class_path: os.system, init_args: {command: touch pwned}}}",
        ("trainer.logger", "a class path"),
    ),
    "program for a callback": (
        "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [touch, pwned]}}]}",
        ("trainer.callbacks",),
    ),
}


@pytest.mark.parametrize("name", FITTED)
def test_config_of_fit(name: str, here: Path, error_of: Callable[..., str]) -> None:
    held, expected = FITTED[name]
    assert isinstance(held, str)
    (here / "it.yaml").write_text(held)
    message = error_of("FIT --config it.yaml")
    assert all(part in message for part in expected), message
    assert not (here / "pwned").exists()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda path: path.mkdir(), "it.yaml"),
        (lambda path: path.symlink_to("gone.yaml"), "it.yaml"),
        (lambda path: path.symlink_to("it.yaml"), "it.yaml"),
        (os.mkfifo, "it.yaml"),
        (lambda path: None, "it.yaml"),
        (lambda path: None, "o" * 300),
        (lambda path: None, "/dev/null"),
        (lambda path: None, ""),
    ],
    ids=["folder", "link to nothing", "link to itself", "pipe", "nothing", "too long", "device", "no name"],
)
def test_config_that_is_no_file(make: Callable[[Path], object], name: str, here: Path, error_of) -> None:
    make(here / "it.yaml")
    assert f"--config: there is no file '{name}'" in error_of(f"compare '{name}' --seeds 1")


def test_aliases_and_merges_are_fine(here: Path, error_of: Callable[..., str]) -> None:
    """So that the rows above fail for their own reason alone: what is asked for here is found wrong later."""
    (here / "it.yaml").write_text("model: &m {lr: 0.1}\nextra: {<<: *m, lr: 0.2}\n")
    assert error_of("compare it.yaml --seeds 0") == "error: --seeds: got 0, must be at least 1"
