"""What a source has to say that is no error: one line, once, where several processes read the same files."""

import os
import sys

from mlp_lightning.printable import printable


def note(line: str) -> None:
    """Print a line beside the results; only the first process of a training does."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"note: {printable(line)}", file=sys.stderr)
