"""The command ``predict``: classes of pictures, rows of a table or of an array, from a checkpoint alone."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mlp_lightning.errors import UserError
from mlp_lightning.files.regular import real
from mlp_lightning.invocation import program
from mlp_lightning.printable import printable

if TYPE_CHECKING:
    from mlp_lightning.commands.predict.results import Results
    from mlp_lightning.predicting.inputs import Reader

LISTED = 5


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"predict: {message}")


def predict(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows ``predict`` on the command line.

    Raises:
        UserError: wrong arguments, a checkpoint or an input that cannot be read or does not fit the other, or a file
            that cannot be written. Then no file is written.
    """
    options = _parse(arguments)
    if options.top < 1:
        raise UserError(f"--top: got {options.top}, must be at least 1")
    for option, path in (("--output", options.output), ("--contact_sheet", options.contact_sheet)):
        if path is not None:
            _check_target(option, Path(path))
    # Here, for they import torch: help and errors do not wait.
    from mlp_lightning.commands.predict.results import Results
    from mlp_lightning.predicting.inputs import Reader
    from mlp_lightning.predicting.model import load

    model = load(options.ckpt_path, option="--ckpt_path")
    _check_overwriting(options, model.path)
    if options.contact_sheet is not None and not model.image_shape:
        raise UserError(f"--contact_sheet: {model.path} takes no pictures")
    center = None if options.center is None else options.center == "true"
    try:
        reader = Reader(model, options.invert, center)
        results = Results(model, options.top, sheet=options.contact_sheet is not None)
        print(f"{printable(str(model.path))}: {'-'.join(str(size) for size in model.network.sizes)}", flush=True)
        _write(options, reader, results)
    except UserError as error:
        # What the Python functions call so has dashes here.
        message = str(error)
        named = next((name for name in ("center", "input", "top") if message.startswith(f"{name}:")), None)
        raise UserError(f"--{message}" if named else message) from error
    print(results.text(options.output))
    for line in reader.unreadable[:LISTED]:
        print(f"skipped: {printable(line)}")
    if len(reader.unreadable) > LISTED:
        print(f"skipped: {len(reader.unreadable) - LISTED} more that cannot be read")
    for name, path in (("predictions", options.output), ("contact sheet", options.contact_sheet)):
        if path is not None:
            print(f"{name}: {printable(path)}")


def _write(options: argparse.Namespace, reader: "Reader", results: "Results") -> None:
    """Predict, and write the files once all of it has gone well."""
    from mlp_lightning.files.atomic import written_beside

    if options.output is None:
        results.take(reader, options.input, None)
        _finish(options, reader, results)
        return
    target = Path(options.output)
    try:
        with written_beside(target) as temporary:
            # What no encoding holds, as in the name of a file that is no text, is shown as its escape.
            with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                results.take(reader, options.input, file)
            _finish(options, reader, results)
    except OSError as error:
        raise UserError(f"--output: {target} cannot be written: {error.strerror}") from error


def _finish(options: argparse.Namespace, reader: "Reader", results: "Results") -> None:
    """Refuse what could not be read, and draw the contact sheet."""
    from mlp_lightning.predicting.prediction import check_readable

    if not options.skip_unreadable:
        check_readable(reader.unreadable, " (--skip_unreadable skips them)")
    if not results.count:
        raise UserError("--input: none of the pictures can be read")
    if options.contact_sheet is not None:
        from mlp_lightning.figures import save_png

        try:
            save_png(results.contact_sheet(), options.contact_sheet)
        except OSError as error:
            raise UserError(f"--contact_sheet: {options.contact_sheet} cannot be written: {error.strerror}") from error


def _check_target(option: str, path: Path) -> None:
    try:
        # A device, too, is nothing whose place a file may take.
        taken = path.exists() and not path.is_file()
        if taken or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise UserError(f"{option}: got {path}, must be a file in an existing folder that can be written")
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be written: {error.strerror}") from error


def _check_overwriting(options: argparse.Namespace, checkpoint: Path) -> None:
    """Refuse to write over what is read, or twice to one file."""
    read = {real(path) for path in (checkpoint, *options.input)}
    for option, name in (("--output", options.output), ("--contact_sheet", options.contact_sheet)):
        path = None if name is None else real(name)
        if path in read:
            raise UserError(f"{option}: {name} is the checkpoint or an input, or is to be written already")
        if path is not None:
            read.add(path)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"{program()} predict", description=__doc__)
    parser.add_argument(
        "--ckpt_path", required=True, help="a checkpoint, the folder of a run, or best or last for the newest one"
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        help="pictures, folders of pictures, tables (.csv) with the columns of the training, arrays (.npy, .npz)",
    )
    parser.add_argument(
        "--output",
        help="a CSV file for all predictions; a text that a spreadsheet would run begins with an apostrophe in it",
    )
    parser.add_argument("--top", type=int, default=3, help="how many classes to tell of each sample (default 3)")
    parser.add_argument("--contact_sheet", help="a PNG file that shows the samples as the network sees them")
    parser.add_argument("--skip_unreadable", action="store_true", help="go on without pictures that cannot be read")
    parser.add_argument(
        "--invert",
        choices=["auto", "always", "never"],
        default="auto",
        help="whether pictures show dark digits on light paper (always) or not (never); auto looks (default)",
    )
    parser.add_argument(
        "--center",
        choices=["true", "false"],
        help="whether to scale and centre pictures as MNIST's were; by default for models of such data",
    )
    return parser.parse_args(arguments)
