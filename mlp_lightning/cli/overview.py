"""The commands, a line each, and the help that lists them: light, for nobody should wait for torch to read it."""

from collections.abc import Sequence
from itertools import takewhile

from jsonargparse import ActionConfigFile, ArgumentParser

from mlp_lightning.invocation import program

DESCRIPTION = "Train multilayer perceptrons whose gradients are derived by hand."
COMMANDS = {
    "init": "Look at data, and write a config with comments that fits them.",
    "fit": "Train, validate as it goes, and test.",
    "validate": "Evaluate on the validation set.",
    "test": "Evaluate on the test set.",
    "check": "Prove every hand-derived gradient and update against torch's, on this config and data.",
    "explain": "Walk one minibatch through forward, loss, backward and update, with formulas and numbers.",
    "compare": "Run configs over seeds and settings, then print a table and draw the curves.",
    "predict": "Classify pictures, or rows of a table or array, with a trained model: a table, a CSV, a contact sheet.",
    "export": "Write a trained model for torch alone, ONNX or safetensors, and prove the file against it.",
    "draw": "Serve a page on this machine on which you draw a digit and see the network recognise it.",
}


def asks_for_overview(arguments: Sequence[str]) -> bool:
    """Whether ``--help`` stands before the name of any command."""
    return not {"-h", "--help"}.isdisjoint(takewhile(lambda argument: argument not in COMMANDS, arguments))


def asks_for_version(arguments: Sequence[str]) -> bool:
    """Whether the first argument is ``--version``."""
    return list(arguments[:1]) == ["--version"]


def overview() -> str:
    """The help of the whole program."""
    parser = ArgumentParser(prog=program(), description=DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="Print the version and exit.")
    parser.add_argument(
        "-c", "--config", action=ActionConfigFile, help="Path to a configuration file in json or yaml format."
    )
    commands = parser.add_subcommands()
    for name, summary in COMMANDS.items():
        commands.add_subcommand(name, ArgumentParser(), help=summary)
    return parser.format_help()
