"""A checkpoint that is written: sealed, and whole or not there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlp_lightning.errors import UserError
from mlp_lightning.files.atomic import written_beside
from mlp_lightning.files.checkpoint_file import FORMAT_KEY
from mlp_lightning.files.seal import FORMAT, SealingFile


def write_checkpoint(checkpoint: Mapping[str, Any], target: Path) -> None:
    """Write ``checkpoint`` to ``target``; raises UserError if the folder cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(target) as temporary, temporary.open("wb") as file:
            sealing = SealingFile(file)
            # All that torch asks of a file is to write and to flush.
            try:
                torch.save({**checkpoint, FORMAT_KEY: FORMAT}, sealing)  # type: ignore[arg-type]
            except RuntimeError:
                # Torch wants to end the file in spite of it, and fails by what that means to it.
                if sealing.failure is not None:
                    raise sealing.failure from None
                raise
            sealing.seal()
    except OSError as error:
        raise UserError(f"checkpoint {target} cannot be written: {error.strerror}") from error
