"""The command ``draw``: a page on this machine on which a digit is drawn and recognised as it is drawn."""

import argparse
import errno
import threading
import webbrowser
from typing import NoReturn

from mlp_lightning.errors import UserError
from mlp_lightning.invocation import program
from mlp_lightning.printable import printable


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"draw: {message}")


def draw(arguments: list[str]) -> None:
    """Run the command until Ctrl-C.

    Args:
        arguments: What follows ``draw`` on the command line.

    Raises:
        UserError: wrong arguments, a checkpoint of other data than grey images, or a port that cannot be had.
    """
    options = _parse(arguments)
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port: got {options.port}, must be in 0 … 65535 (0 takes a free one)")
    # Here, for they import torch: help and errors do not wait.
    from mlp_lightning.commands.draw.answers import Answers
    from mlp_lightning.commands.draw.server import ADDRESS, DrawServer
    from mlp_lightning.predicting.model import load

    model = load(options.ckpt_path, option="--ckpt_path")
    try:
        server = DrawServer(options.port, Answers(model))
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise UserError(f"--port: {options.port} {reason} on {ADDRESS}; give another, or 0 for a free one") from error
    address = f"http://{ADDRESS}:{server.server_port}/"
    sizes = "-".join(str(size) for size in model.network.sizes)
    with server:
        print(f"{printable(str(model.path))}: {sizes}, {model.network.activation}", flush=True)
        print(f"draw on {address} (Ctrl-C ends it)", flush=True)
        if options.open:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"{program()} draw", description=__doc__)
    parser.add_argument(
        "--ckpt_path", required=True, help="a checkpoint, the folder of a run, or best or last for the newest one"
    )
    parser.add_argument("--port", type=int, default=8000, help="port of 127.0.0.1; 0 takes a free one (default 8000)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser.parse_args(arguments)
