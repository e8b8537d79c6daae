"""The entrance: what needs neither torch nor Lightning is answered without them, for they take seconds to import."""

import gc
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from mlp_lightning.cli.environment import check_environment
from mlp_lightning.cli.failure import NO_FOLDER, fail, has_folder, system_error
from mlp_lightning.cli.light import answer
from mlp_lightning.cli.output import discard_output, prepare_streams
from mlp_lightning.engines.native.compile import compilation
from mlp_lightning.errors import UserError
from mlp_lightning.memory import out_of_memory

# As a shell reports a process that SIGPIPE ended; Windows has no such signal.
BROKEN_PIPE = 128 + 13


def main(args: list[str] | None = None) -> None:
    """Run the command line; whatever the user can mend ends as one line and exit status 2."""
    arguments = sys.argv[1:] if args is None else args
    prepare_streams()
    # Torch's BLAS ends the process there with a message of its own.
    if not has_folder():
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
