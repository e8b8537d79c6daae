"""Compilers that hang, fail or lie: training goes on without C, says why in one line, and leaves nothing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlp_lightning.engines.native import compile as compilations
from mlp_lightning.engines.native import library as native
from mlp_lightning.engines.native.compile import compilation
from mlp_lightning.engines.native.elf import is_whole
from mlp_lightning.engines.native.library import library
from mlp_lightning.files import scratch

pytestmark = pytest.mark.skipif(os.name != "posix" or shutil.which("cc") is None, reason="no C compiler")
# The file that a compiler is asked for follows -o.
TARGET = 'for word; do [ "$before" = -o ] && target=$word; before=$word; done\n'


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A small library that a real compiler made of all functions that are asked for."""
    folder = tmp_path_factory.mktemp("real")
    source = "".join(f"int {name}(void) {{ return 7; }}\n" for name in native.FUNCTIONS)
    (folder / "source.c").write_text(source + "char much[100000] = {1};\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "real.so", folder / "source.c"], check=True)
    return folder / "real.so"


@pytest.fixture
def compile_with(tmp_path, monkeypatch, capsys):
    """What a script in the place of the compiler leads to: the library, and the lines that are printed."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(compilations, "LONGEST", 0.3)

    def run(script, name="compiler", words="{}"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{TARGET}{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", words.format(path))
        try:
            found = library()
        finally:
            for cached in (library, compilation):
                cached.cache_clear()
        assert not list((tmp_path / "tmp").iterdir())
        return found, capsys.readouterr().err.splitlines()

    for cached in (library, compilation):
        cached.cache_clear()
    yield run
    for cached in (library, compilation):
        cached.cache_clear()


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("script", ["sleep 30", "sleep 30 & wait", "trap '' TERM INT; sleep 30"])
def test_one_that_hangs_is_ended_with_all_it_started(compile_with, tmp_path, script):
    found, lines = compile_with(f"echo $$ > {tmp_path}/group; {script}")
    assert found is None
    (line,) = lines
    assert line.startswith("no C functions, so steps take longer: the C compiler ")
    assert line.endswith("did not end within 0 seconds")
    group = int((tmp_path / "group").read_text())
    # Until the system has taken note of the end of those that were not ours to wait for.
    assert any(is_gone(group) or time.sleep(0.05) for _ in range(100))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "ended with status 3"),
        ("echo warning >&2; echo 'x.c: error: no omp.h' >&2; exit 1", "ended with status 1: x.c: error: no omp.h"),
        ("kill -9 $$", "ended with status -9"),
        ("true", "did not write a whole library"),
        (": > $target", "did not write a whole library"),
        ("echo broken > $target", "cannot be loaded"),
        ("echo 'char x;' | cc -shared -fPIC -xc - -o $target", "has no function adam"),
        ("mkdir $target", "did not write a whole library"),
    ],
)
def test_one_that_fails_says_why(compile_with, monkeypatch, script, said):
    monkeypatch.setattr(compilations, "LONGEST", 30.0)
    found, lines = compile_with(script)
    assert found is None
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_library_is_not_loaded(compile_with, monkeypatch, real, share):
    """Its missing pages would end the process by SIGBUS, which no handler could turn into a line."""
    monkeypatch.setattr(compilations, "LONGEST", 30.0)
    found, lines = compile_with(f"head -c {int(share * real.stat().st_size)} {real} > $target")
    assert found is None
    assert len(lines) == 1
    assert "did not write a whole library" in lines[0] or share == 0.01
    found, lines = compile_with(f"cp {real} $target")
    assert found.adam() == 7
    assert lines == []


def test_every_missing_end_is_seen(real, tmp_path):
    content = real.read_bytes()
    assert is_whole(real)
    for size in {*range(0, len(content), 997), len(content) - 1, 64, 63, 17}:
        (tmp_path / "part").write_bytes(content[:size])
        # What is shorter than its first 6 bytes is no library by name, which the loader sees.
        assert is_whole(tmp_path / "part") == (0 < size < 6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my compiler", "{}"),
        ("my compiler", "'{}' -DX='a b'"),
        ("compiler", "{} -g"),
        ("compiler", "  {}  "),
        ('a"b', "{}"),
    ],
)
def test_a_command_with_spaces_and_quotes(compile_with, monkeypatch, real, name, words):
    monkeypatch.setattr(compilations, "LONGEST", 30.0)
    found, lines = compile_with(f"cp {real} $target", name, words)
    assert found.adam() == 7
    assert lines == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no-such-compiler", "there is no C compiler no-such-compiler"),
        ("no-such-compiler -g", "there is no C compiler no-such-compiler -g"),
        ("'cc", "CC: got 'cc, whose quotes do not match"),
        (None, None),
        ("", None),
        ("  ", None),
    ],
)
def test_none(compile_with, monkeypatch, capsys, given, said):
    monkeypatch.setattr(compilations, "LONGEST", 60.0)
    if given is not None:
        monkeypatch.setenv("CC", given)
    else:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", "")
        said = "there is no C compiler (cc)"
    assert library() is None
    assert library() is None
    lines = capsys.readouterr().err.splitlines()
    assert lines == ([] if said is None else [f"no C functions, so steps take longer: {said}"])


def test_no_place_for_temporary_files(compile_with, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setenv("CC", "cc")
    assert library() is None
    assert "the C compiler cc cannot be started: No such file or directory" in capsys.readouterr().err


LEAVE = """
import os, signal, sys
from mlp_lightning.files.scratch import Scratch
folder = Scratch().folder
(folder / "half").write_text("half")
print(folder, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def leave(folder, how, stdin=subprocess.DEVNULL):
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", LEAVE, how]
    return subprocess.Popen(command, env=environment, stdin=stdin, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with leave(tmp_path, "killed") as killed, leave(tmp_path, "running", subprocess.PIPE) as running:
        left, held = (Path(process.stdout.readline().strip()) for process in (killed, running))
        killed.wait()
        kept = ["mlp_lightning-report", "mlp_lightning-12-x.txt", "other", "mlp_lightning-abcd1234"]
        old = ["mlp_lightning-abcd5678", f"mlp_lightning-{os.getpid()}-abcd5678"]
        for name in [*kept, *old]:
            (tmp_path / name).mkdir()
        for path in (held, *(tmp_path / name for name in old)):
            os.utime(path, (1_000_000, 1_000_000))
        target = tmp_path / "target"
        target.mkdir()
        link = tmp_path / f"mlp_lightning-{killed.pid}-abcd9999"
        link.symlink_to(target)
        assert left.is_dir()
        mine = scratch.Scratch()
        found = {path.name for path in tmp_path.iterdir()}
        assert found == {*kept, held.name, "target", link.name, mine.folder.name}
        mine.remove()
        running.stdin.close()
    assert not mine.folder.exists()
