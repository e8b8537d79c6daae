"""The package's C sources on their way to a library, by the machine's own compiler, in a process of its own.

This file imports nothing large: a command begins with it, and the imports that follow take longer than the compiler.
"""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

# -fno-math-errno and -fno-trapping-math let the compiler use vector square roots and selections; no flag here changes
# what a formula rounds to but the fusing of a multiplication with the addition that follows it.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")


class Compilation:
    """A running compiler. What it makes is deleted at the latest when Python ends: nothing is left to be stale.

    Args:
        compiler: its path.
    """

    def __init__(self, compiler: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="mlp_lightning-")
        self._library = Path(self._folder) / "library.so"
        command = [compiler, *FLAGS, *sources(), "-o", str(self._library), "-lm"]
        # A session of its own: the interrupt of a training is not its. The files that its parts leave each other are to
        # go with the folder.
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": self._folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.discard)

    def library(self) -> Path | None:
        """Wait; the path of the library, or None where the compiler failed."""
        return self._library if self._process.wait() == 0 else None

    def discard(self) -> None:
        """Delete what was made; a library that is loaded stays loaded."""
        if self._process.poll() is None:
            # The compiler proper and the assembler are processes of their own.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.discard)


@functools.cache
def compilation() -> Compilation | None:
    """The only one of this process, begun by the first call; None where there is no compiler.

    The compiler is that of the environment variable ``CC``, else ``cc``; an empty ``CC`` says not to compile.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    try:
        return None if compiler is None else Compilation(compiler)
    except OSError:
        return None


def sources() -> list[str]:
    """The paths of the C sources."""
    return sorted(str(path) for path in Path(__file__).parent.rglob("*.c"))
