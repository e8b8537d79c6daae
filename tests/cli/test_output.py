"""Output that is closed, full, or of an encoding with few letters: no command ends in a traceback."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlp_lightning.cli import light, start
from mlp_lightning.cli.output import plain, prepare_streams
from mlp_lightning.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = f'"{sys.executable}" "{ROOT / "train.py"}"'
needs_shell = pytest.mark.skipif(os.name != "posix", reason="redirections of a POSIX shell")
LETTERS = "a × b − c … ± → η Σ ² ₜ ‖ é 中 \udcff 🙂"


def shell(line, folder, **environment):
    """A command line of a shell: its status and what it printed where that was not redirected."""
    given = {**os.environ, "XDG_CACHE_HOME": str(folder), **environment}
    command = ["sh", "-c", line.replace("RUN", PROGRAM)]
    done = subprocess.run(command, capture_output=True, cwd=folder, env=given, check=False)
    return done.returncode, done.stdout, done.stderr


@needs_shell
@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("RUN --help >&-", 0, b""),
        ("RUN --help <&- >&- 2>&-", 0, b""),
        ("RUN --help 2>&-", 0, b""),
        ("RUN nothing >&-", 2, b"error: subcommand: got nothing, must be one of"),
        ("RUN nothing 2>&-", 2, b""),
        ("RUN nothing >&- 2>&-", 2, b""),
        ("RUN --help >/dev/full", 2, b"error: standard output cannot be written: No space left on device"),
        ("RUN predict --help >/dev/full", 2, b"error: standard output cannot be written: No space left on device"),
        ("RUN --help >/dev/full 2>/dev/full", 2, b""),
        ("RUN nothing 2>/dev/full", 2, b""),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path, line, status, said):
    code, _, errors = shell(line, tmp_path)
    assert code == status
    assert errors.startswith(said)
    assert len(errors.splitlines()) == bool(said)


@needs_shell
@pytest.mark.slow
@pytest.mark.parametrize("end", ["| head -1", ">&- 2>&-", "2>/dev/full"])
def test_a_training_whose_output_goes_nowhere(tmp_path, end):
    options = "--config relu.yaml --trainer.accelerator cpu --trainer.fast_dev_run true --model.hidden [4]"
    code, _, errors = shell(f"RUN fit {options} {end}", tmp_path)
    assert code == 0
    assert b"Traceback" not in errors


@needs_shell
def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path):
    """Else what is printed would be written into them."""
    code = "from mlp_lightning.cli.output import prepare_streams; prepare_streams(); "
    code += "import os; file = open('kept', 'w'); print('printed', flush=True); print(file.fileno(), file=file)"
    line = f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'
    status, _, _ = shell(line, tmp_path, PYTHONPATH=str(ROOT))
    assert status == 0
    assert int((tmp_path / "kept").read_text()) > 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "cp437"])
def test_any_text_is_printed_in_any_encoding(monkeypatch, tmp_path, encoding):
    """And read again: letters of names stay distinct, and signs keep their meaning."""
    with (tmp_path / "out").open("w", encoding=encoding) as usual:
        for name, number in (("stdout", 1), ("stderr", 2)):
            monkeypatch.setattr(sys, name, usual)
            monkeypatch.setattr(sys, f"__{name}__", usual)
            kept = os.dup(number)
            os.dup2(usual.fileno(), number)
            try:
                prepare_streams()
                print(LETTERS, file=getattr(sys, name), flush=True)
            finally:
                os.dup2(kept, number)
                os.close(kept)
    lines = (tmp_path / "out").read_text(encoding=encoding).splitlines()
    assert len(lines) == 2
    assert lines[0] == lines[1]
    if encoding == "ascii":
        assert lines[0] == r"a x b - c ... +/- -> eta sum 2 t || \xe9 \u4e2d \udcff \U0001f642"
    if encoding == "cp1252":
        assert lines[0] == "a × b - c … ± -> eta sum ² t || é " + r"\u4e2d \udcff \U0001f642"
    if encoding == "utf-8":
        assert lines[0] == LETTERS.replace("\udcff", r"\udcff")


def test_streams_that_someone_has_replaced_stay(monkeypatch):
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    monkeypatch.setattr(sys, "stderr", mine)
    prepare_streams()
    assert sys.stdout is mine
    assert sys.stderr is mine


def test_only_encoding_is_helped():
    with pytest.raises(UnicodeDecodeError):
        plain(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "runs"), "runs cannot be opened or written: Permission denied"),
        (OSError(30, "Read-only file system"), "a file of the run cannot be opened or written: Read-only file system"),
        (OSError(28, "No space left on device", "out.csv"), "out.csv: No space left on device"),
        (OSError(24, "Too many open files"), "a file: Too many open files"),
        (UserError("option: got this"), "option: got this"),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, error, said):
    def fails(arguments):
        raise error

    monkeypatch.setitem(light.LIGHT, "predict", fails)
    with pytest.raises(SystemExit) as ended:
        start.main(["predict"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_folder_that_is_gone(monkeypatch, capsys, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setitem(light.LIGHT, "predict", lambda arguments: os.getcwd())
    with pytest.raises(SystemExit) as ended:
        start.main(["predict"])
    monkeypatch.undo()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: the folder in which this was started is no longer there\n"
