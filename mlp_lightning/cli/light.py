"""Commands that need no Lightning, which takes seconds to import."""

import sys
from collections.abc import Callable, Sequence

from mlp_lightning.cli.config_files import CONFIG_FOLDER, find_config
from mlp_lightning.cli.overview import COMMANDS, asks_for_overview, asks_for_version, overview
from mlp_lightning.commands.compare.command import compare
from mlp_lightning.commands.draw.command import draw
from mlp_lightning.commands.export.command import export
from mlp_lightning.commands.init.command import init
from mlp_lightning.commands.predict.command import predict
from mlp_lightning.errors import UserError
from mlp_lightning.invocation import version_of_package

LIGHT: dict[str, Callable[[list[str]], None]] = {
    "init": init,
    "compare": lambda arguments: compare(arguments, lambda name: find_config(name, CONFIG_FOLDER)),
    "predict": predict,
    "export": export,
    "draw": draw,
}


def answer(arguments: Sequence[str]) -> bool:
    """Do what needs no Lightning, and tell whether it was that; raises UserError, and SystemExit after a help."""
    if asks_for_version(arguments):
        print(f"mlp_lightning {version_of_package()}")
        sys.exit(0)
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
