"""Standard streams that take any text, even where they are closed, full, or of an encoding that lacks letters."""

import codecs
import io
import os
import sys
import unicodedata
from typing import Any, TextIO

from mlp_lightning.errors import UserError

# What stands for signs that an encoding lacks; others are spelt, or written as Python escapes them.
PLAIN = {
    **dict.fromkeys("−–—", "-"),
    **dict.fromkeys("·⊙", "*"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”", '"'),
    **{"×": "x", "…": "...", "±": "+/-", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≈": "~"},
    **{"‖": "||", "√": "sqrt", "∞": "inf", "Σ": "sum", "∑": "sum", "∂": "d", "∇": "grad", "‰": "o/oo"},
}
HANDLER = "mlp_lightning"


class _Output(io.FileIO):
    """Standard output: the first failure ends the command in one line; a pipe that nobody reads is told as ever."""

    _has_failed = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._has_failed:
                return memoryview(data).nbytes
            self._has_failed = True
            raise UserError(f"standard output cannot be written: {error.strerror}") from error


class _Errors(io.FileIO):
    """Standard error: there is nowhere left to tell that it cannot be written."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def prepare_streams() -> None:
    """Open what is closed, and let output print any text; streams that someone has put in their place stay."""
    _open_closed()
    codecs.register_error(HANDLER, plain)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, _Output, sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, _Errors, sys.stderr)


def discard_output() -> None:
    """Let nothing more be written to standard output: what is left in it would fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(error: UnicodeError) -> tuple[str, int]:
    """Stand-ins for letters that cannot be encoded, as an error handler of ``codecs``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter) or _spelt(letter) for letter in missing), error.end


def _spelt(letter: str) -> str:
    """``η`` as eta and ``²`` as 2; other letters, as of names, as an escape that stays distinct."""
    name = unicodedata.name(letter, "")
    if name.startswith(("GREEK SMALL LETTER ", "GREEK CAPITAL LETTER ")) and len(name.split()) == 4:
        return name.split()[-1].lower()
    bare = unicodedata.normalize("NFKD", letter) if unicodedata.category(letter) in ("No", "Lm") else ""
    return bare if bare.isascii() and bare else letter.encode("ascii", "backslashreplace").decode()


def _open_closed() -> None:
    # Else the next file that is opened, say a checkpoint, would get the number of a standard stream.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _stream(number: int, kind: type[io.FileIO], usual: TextIO | None) -> TextIO:
    # What the user has chosen otherwise, by PYTHONIOENCODING, stays; standard error has always escaped letters.
    chosen = usual.errors if usual is not None and number == 1 else None
    errors = HANDLER if chosen in (None, "strict", "surrogateescape") else chosen
    if sys.platform == "win32" and isinstance(usual, io.TextIOWrapper):
        # A console has a writer of its own there.
        usual.reconfigure(errors=errors)
        return usual
    if isinstance(usual, io.TextIOWrapper):
        usual.flush()
        by_line, encoding = usual.line_buffering or usual.write_through, usual.encoding
    else:
        by_line, encoding = number == 2, "utf-8"
    raw = kind(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=by_line)
