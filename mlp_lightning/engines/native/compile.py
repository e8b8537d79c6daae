"""The package's C sources on their way to a library, by the machine's own compiler, in a process of its own.

This file imports nothing large: a command begins with it, and the imports that follow take longer than the compiler.
"""

import atexit
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from mlp_lightning.engines.native.elf import is_whole
from mlp_lightning.errors import UserError
from mlp_lightning.files.scratch import Scratch

# -fno-math-errno and -fno-trapping-math let the compiler use vector square roots and selections; no flag here changes
# what a formula rounds to but the fusing of a multiplication with the addition that follows it.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
# Seconds, some twenty times what a compiler takes.
LONGEST = 60.0
# Characters of a compiler's error to repeat.
SHOWN = 200


class Compilation:
    """A running compiler. What it makes is deleted at the latest when Python ends: nothing is left to be stale.

    Args:
        compiler: the command that compiles, without arguments of ours.

    Raises:
        OSError: there is no folder for temporary files, or the compiler cannot be started.
    """

    def __init__(self, compiler: list[str]) -> None:
        self._compiler = compiler
        self._scratch = Scratch()
        self._library = self._scratch.folder / "library.so"
        self._errors = self._scratch.folder / "errors"
        command = [*compiler, *FLAGS, *sources(), "-o", str(self._library), "-lm"]
        try:
            with self._errors.open("wb") as errors:
                # A session of its own: the interrupt of a training is not its. The files that its parts leave each
                # other are to go with the folder.
                self._process = subprocess.Popen(
                    command,
                    env={**os.environ, "TMPDIR": str(self._scratch.folder)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
        except OSError:
            self._scratch.remove()
            raise
        atexit.register(self.discard)

    def library(self) -> Path:
        """Wait; the path of the library.

        Raises:
            UserError: the compiler failed, took longer than ``LONGEST``, or did not write a whole library.
        """
        name = shlex.join(self._compiler)
        try:
            status = self._process.wait(LONGEST)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the C compiler {name} did not end within {LONGEST:.0f} seconds") from error
        if status != 0:
            raise UserError(f"the C compiler {name} ended with status {status}{self._error()}")
        if not is_whole(self._library):
            raise UserError(f"the C compiler {name} did not write a whole library")
        return self._library

    def _error(self) -> str:
        try:
            lines = self._errors.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        found = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        return f": {found[:SHOWN]}" if found else ""

    def discard(self) -> None:
        """Delete what was made; a library that is loaded stays loaded."""
        if self._process.poll() is None:
            if sys.platform == "win32":
                self._process.kill()
            else:
                # The compiler proper and the assembler are processes of their own.
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._scratch.remove()
        atexit.unregister(self.discard)


@functools.cache
def compilation() -> Compilation | None:
    """The only one of this process, begun by the first call; None where ``CC`` is empty, which says not to compile.

    The compiler is that of the environment variable ``CC``, else ``cc``. ``CC`` may hold arguments, quoted as in a
    shell, or be a path with spaces.

    Raises:
        UserError: there is no such compiler, or it cannot be started.
    """
    given = os.environ.get("CC", "cc")
    if not given.strip():
        return None
    compiler = _command(given)
    try:
        return Compilation(compiler)
    except OSError as error:
        raise UserError(f"the C compiler {given} cannot be started: {error.strerror or error}") from error


def _command(given: str) -> list[str]:
    """The path of the compiler, and its arguments."""
    try:
        words = [given] if shutil.which(given) else shlex.split(given)
    except ValueError as error:
        raise UserError(f"CC: got {given}, whose quotes do not match") from error
    path = shutil.which(words[0]) if words else None
    if path is None:
        raise UserError(f"there is no C compiler {given}" if "CC" in os.environ else "there is no C compiler (cc)")
    return [path, *words[1:]]


def sources() -> list[str]:
    """The paths of the C sources."""
    return sorted(str(path) for path in Path(__file__).parent.joinpath("src").glob("*.c"))
