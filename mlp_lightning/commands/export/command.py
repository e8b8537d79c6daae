"""The command ``export``: a trained model as a file that other programs run, proven against our network."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from mlp_lightning.errors import UserError
from mlp_lightning.invocation import program
from mlp_lightning.printable import printable, printable_lines

# Those of ``export_formats.FORMATS``, which imports torch.
FORMAT_NAMES = ("torch", "torch_export", "onnx", "safetensors")
HELP = """formats:
  torch         the weights, as state dict of a torch.nn.Sequential
  torch_export  the whole program, preprocessing and softmax included; torch alone runs it
  onnx          the same for ONNX runtimes, in float32; needs pip install 'mlp-lightning[onnx]'
  safetensors   the weights under the names they have in checkpoints, with sizes, activation, names of classes and
                preprocessing as metadata; needs pip install 'mlp-lightning[safetensors]'

The lines that load the file are printed. Before it takes its place it is read back and compared with the network on
random samples; if they differ, nothing is written and the exit status is 1. Weights that were averaged in training
are exported so.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"export: {message}")


def export(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows ``export`` on the command line.

    Raises:
        UserError: wrong arguments, a checkpoint that cannot be used, or a file that cannot be written.
        SystemExit: after a help; with status 1, after a line that says so, if the file differs from the network.
    """
    options = _parse(arguments)
    output = _output(options.output)
    # torch, now that no cheaper check is left.
    from mlp_lightning.commands.export.examples import example
    from mlp_lightning.commands.export.formats import FORMATS, require_packages
    from mlp_lightning.commands.export.proof import MismatchError, write_proven
    from mlp_lightning.predicting.model import load

    chosen = FORMATS[options.format]
    if options.input is not None and not chosen.whole:
        raise UserError(f"--input: is for torch_export and onnx, {options.format} holds weights alone")
    require_packages(options.format, chosen)
    model = load(options.ckpt_path, option="--ckpt_path")
    if output.exists() and output.samefile(model.path):
        raise UserError(f"--output: {output} is the checkpoint itself")
    try:
        proof = write_proven(model, chosen, options.input, output)
    except MismatchError as error:
        print(f"error: {printable(str(output))} was not written: {error}", file=sys.stderr)
        sys.exit(1)
    kind = "probabilities" if chosen.whole else "logits"
    differ = f"{kind} differ from the network's by at most {proof.difference:.2g} ({proof.samples} samples)"
    print(f"{printable(str(output))}: {differ}\n")
    print(printable_lines(example(options.format, model, options.input, output)))


def _output(name: str) -> Path:
    path = Path(os.path.expanduser(name))
    try:
        # A folder, or a device, whose place no file may take.
        if path.exists() and not path.is_file():
            raise UserError(f"--output: {path} is {'a folder' if path.is_dir() else 'no file'}, must be a file")
        if not path.parent.is_dir():
            raise UserError(f"--output: there is no folder {path.parent}")
    except OSError as error:
        raise UserError(f"--output: {path} cannot be written: {error.strerror}") from error
    return path


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=f"{program()} export",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt_path", required=True, help="the checkpoint; or a run's folder; or best, or last")
    parser.add_argument("--format", required=True, choices=FORMAT_NAMES, help="see below")
    parser.add_argument("--output", required=True, help="the file to write, in a folder that is there")
    parser.add_argument(
        "--input",
        choices=("uint8", "float32"),
        help="how a whole program is given images (default uint8, 0 to 255; float32 is 0 to 1) or arrays (default "
        "float32, as they are; uint8 is divided by 255 if the training did so); the rows of tables are float64",
    )
    return parser.parse_args(arguments)
