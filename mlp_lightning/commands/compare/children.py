"""Processes that a command starts and waits for; a signal that ends the command ends them first."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from mlp_lightning.errors import UserError

# Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Children:
    """The processes under way. Each has a session of its own, so that it gets every signal once: from here."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.RLock()
        self._ended = False

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
        """Run a command to its end; its exit status, and what it printed to the standard error.

        Raises:
            UserError: none is started any more, after a signal.
        """
        with self._lock:
            if self._ended:
                raise UserError("stopped")
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            _, errors = process.communicate()
        finally:
            self._running.discard(process)
        return process.returncode, errors

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Within the block Ctrl-C, SIGTERM and SIGHUP go to the processes too; the first raises, as ever or to exit."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What nohup ignores stays ignored.
        numbers = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._end) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            again, self._ended = self._ended, True
            for process in list(self._running):
                with suppress(OSError):
                    os.killpg(process.pid, number)
        if again:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        # Not print: the signal may have come within another one.
        with suppress(OSError):
            os.write(2, b"stopped\n")
        raise SystemExit(128 + number)
