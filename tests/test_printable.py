"""What a terminal is shown of texts that anyone may have written."""

import io
import sys
import unicodedata

import pytest
import torch

from mlp_lightning.cli.failure import fail
from mlp_lightning.data.notes import note
from mlp_lightning.printable import printable, printable_lines
from mlp_lightning.training.callbacks.tables import data_table, format_table, imbalance, results_table
from mlp_lightning.training.runs.run_folder import tell

EVIL = {
    "title": "\x1b]0;owned\x07",
    "colour": "\x1b[31mred",
    "clear": "\x1b[2J\x1b[H",
    "csi in one": "\x9b31m",
    "bidi": "a\u202egpj.exe",
    "isolate": "a\u2066b\u2069",
    "mark": "a\u200fb",
    "line": "a\nerror: b",
    "return": "good\rbad!",
    "back": "abc\b\b\bxyz",
    "separator": "a\u2028b\u2029c\x85d",
    "zero width": "a\u200b\ufeffb",
    "null": "a\0b",
    "surrogate": "a\udcffb",
    "private": "a\ue000b",
    "unassigned": "a\U000e0001b",
}


def is_safe(text):
    return all(unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in ("Zl", "Zp") for c in text)


@pytest.mark.parametrize("name", EVIL)
def test_what_steers_a_terminal_is_shown_as_its_escape(name):
    shown = printable(EVIL[name])
    assert is_safe(shown)
    # Python's own reading of the escapes gives back what was written.
    assert shown.encode("ascii", "backslashreplace").decode("unicode_escape") == EVIL[name]


@pytest.mark.parametrize(
    "text", ["", "plain", "Zürich 東京", "a\u00a0b", "👩\u200d🚀", "می\u200cخواهم", "= [1]", r"C:\x1b"]
)
def test_other_text_stays_as_it_is(text):
    assert printable(text) == text


def test_lines_of_ones_own_stay():
    assert printable_lines("a\nb\x1b") == "a\nb\\x1b"


@pytest.mark.parametrize("name", EVIL)
def test_tables_notes_and_errors_show_it_so(name, capsys):
    evil = EVIL[name]
    tell(f"passed {evil}")
    note(evil)
    with pytest.raises(SystemExit):
        fail(f"file {evil} is not there")
    print(format_table([("input", "class"), (evil, evil)]))
    counts = {"train": torch.tensor([90, 1])}
    print(data_table([evil, "b"], counts))
    print(printable(str(imbalance([evil, "b"], counts["train"]))))
    print(results_table({"test/loss": 0.1, "test/accuracy": 0.5, "test/class_accuracy": {evil: 0.5}}))
    out, err = capsys.readouterr()
    for line in (out + err).split("\n"):
        assert is_safe(line)


def test_an_error_of_several_lines_is_one(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(SystemExit):
        fail("a\nb\x1b[0m")
    assert sys.stderr.getvalue() == "error: a b\\x1b[0m\n"
