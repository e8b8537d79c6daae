"""The command ``init``: a config with comments, fitted to data that it has looked at."""

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

from mlp_lightning.errors import UserError
from mlp_lightning.invocation import program
from mlp_lightning.printable import printable


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"init: {message}")


def init(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows ``init`` on the command line.

    Raises:
        UserError: wrong arguments, a config that is there already, or data that cannot be trained on. Then nothing is
            written.
    """
    options, rest = _parse(arguments)
    path = Path(options.config)
    # The functions of os.path take a name that is too long for one that is not there.
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise UserError(f"init: got {path}, must be a file in an existing folder")
    if os.path.exists(path) and not options.force:
        raise UserError(f"init: {path} is there already; --force replaces it")
    # Here, for they import Lightning: help and errors do not wait.
    from mlp_lightning.commands.init.config import config_text
    from mlp_lightning.commands.init.look import look
    from mlp_lightning.files.atomic import written_beside

    given = _data_options(rest)
    sight = look(given)
    if sight.root and os.path.exists(path) and path.samefile(sight.root):
        raise UserError(f"init: got {path}, which is data.root itself")
    try:
        with written_beside(path) as temporary:
            temporary.write_text(config_text(sight), encoding="utf-8")
    except OSError as error:
        raise UserError(f"init: {path} cannot be written: {error.strerror}") from error
    print(printable(f"{path}: {sight.summary}"))
    print("\nnext:")
    print(printable(f"    {program()} fit --config {path}"))
    files = sight.root or "FILES"
    print(printable(f"    {program()} predict --ckpt_path lightning_logs/{path.stem} --input {files}"))


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = _Parser(
        prog=f"{program()} init",
        description=__doc__,
        usage=f"{program()} init [-h] [--force] CONFIG --data.dataset NAME [--data.root FILES] [--data.OPTION VALUE …]",
        epilog=f"All data options of fit can be given ({program()} fit --help); they are written into the config.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="the file to write, such as my.yaml")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    return parser.parse_known_args(arguments)


def _data_options(arguments: list[str]) -> dict[str, Any]:
    """The options ``--data.…`` that were given, checked as ``fit`` checks them."""
    from jsonargparse import ArgumentError, ArgumentParser

    from mlp_lightning.data.module import DataModule
    from mlp_lightning.messages import plain_words

    parser = ArgumentParser(exit_on_error=False)
    # A seed is given to fit, as seed_everything.
    parser.add_class_arguments(DataModule, "data", skip={"seed"})
    try:
        options = parser.parse_args(arguments)
    except ArgumentError as error:
        names = [f"data.{name}" for name in parser.get_defaults().data.as_dict()]
        raise UserError(plain_words(str(error), names)) from error
    values, defaults = options.data.as_dict(), parser.get_defaults().data.as_dict()
    return {"dataset": values["dataset"], **{name: value for name, value in values.items() if value != defaults[name]}}
