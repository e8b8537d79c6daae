"""The entrance: what needs neither torch nor Lightning is answered without them, for they take seconds to import."""

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from mlp_lightning.cli.config_files import CONFIG_FOLDER, find_config
from mlp_lightning.cli.environment import check_environment
from mlp_lightning.cli.output import discard_output, prepare_streams
from mlp_lightning.cli.overview import COMMANDS, asks_for_overview, overview
from mlp_lightning.commands.compare.command import compare
from mlp_lightning.commands.draw.command import draw
from mlp_lightning.commands.export.command import export
from mlp_lightning.commands.init.command import init
from mlp_lightning.commands.predict.command import predict
from mlp_lightning.engines.native.compile import compilation
from mlp_lightning.errors import UserError
from mlp_lightning.memory import out_of_memory
from mlp_lightning.printable import printable

LIGHT: dict[str, Callable[[list[str]], None]] = {
    "init": init,
    "compare": lambda arguments: compare(arguments, lambda name: find_config(name, CONFIG_FOLDER)),
    "predict": predict,
    "export": export,
    "draw": draw,
}

# A folder, or a whole file system, that may only be read.
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = "the folder in which this was started is no longer there"
# As a shell reports a process that SIGPIPE ended; Windows has no such signal.
BROKEN_PIPE = 128 + 13


def main(args: list[str] | None = None) -> None:
    """Run the command line; whatever the user can mend ends as one line and exit status 2."""
    arguments = sys.argv[1:] if args is None else args
    prepare_streams()
    # Torch's BLAS ends the process there with a message of its own.
    if not _has_folder():
        fail(NO_FOLDER)
    try:
        try:
            _start(arguments, args)
        finally:
            sys.stdout.flush()
    except UserError as error:
        # The rest of the output could not be written.
        fail(str(error))
    except KeyboardInterrupt:
        # Where a training could note it, it does not come here.
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read the output, as head does, has seen enough.
        discard_output()
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        fail(system_error(error))
    except (MemoryError, RuntimeError) as error:
        line = out_of_memory(error)
        if line is None:
            raise
        fail(line)


def _start(arguments: Sequence[str], args: list[str] | None) -> None:
    try:
        check_environment()
        answered = answer(arguments)
    except UserError as error:
        fail(str(error))
    if not answered:
        if arguments[:1] == ["fit"]:
            # What keeps it from compiling is told where its functions are wanted.
            with suppress(UserError):
                compilation()
        # The imports make 700,000 objects that stay. Walking them again and again in search of garbage takes a fifth
        # of the time, and freezing them spares the same to every later search, those at exit included.
        gc.disable()
        from mlp_lightning.cli import main as cli

        gc.freeze()
        gc.enable()
        cli.main(args)


def answer(arguments: Sequence[str]) -> bool:
    """Do what needs no Lightning, and tell whether it was that; raises UserError, and SystemExit after a help."""
    if asks_for_overview(arguments):
        print(overview(), end="")
        sys.exit(0)
    command = arguments[0] if arguments else "nothing"
    if command in LIGHT:
        LIGHT[command](list(arguments[1:]))
        return True
    if command not in COMMANDS and not command.startswith("-"):
        raise UserError(f"subcommand: got {command}, must be one of {', '.join(COMMANDS)}")
    return False


def system_error(error: OSError) -> str:
    """One line for what the system refuses: a folder that is read-only or gone, a full disk, too little memory."""
    line = out_of_memory(error)
    if line is not None:
        return line
    reason = error.strerror or str(error)
    if error.errno in READ_ONLY:
        return f"{error.filename or 'a file of the run'} cannot be opened or written: {reason}"
    if error.filename is None and error.errno == errno.ENOENT and not _has_folder():
        return NO_FOLDER
    return f"{error.filename or 'a file'}: {reason}"


def _has_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def fail(message: str) -> NoReturn:
    """Print one line and exit with status 2."""
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)
