"""Checkpoints on disk: which file is meant, and what it holds, read as data only and without Lightning."""

import os
from pathlib import Path
from typing import Any

import torch

from mlp_lightning.errors import UserError

LOGS = Path("lightning_logs")


def find_checkpoint(name: str | os.PathLike[str], *, option: str = "--ckpt_path") -> Path:
    """The checkpoint that is meant.

    Args:
        name: A file; a folder of a run, or of several, for the newest ``best.ckpt`` in it, or else ``last.ckpt``; or
            one of the words ``best`` and ``last`` for the newest file of that name under ``lightning_logs``.
        option: What an error calls it.

    Raises:
        UserError: there is no such file.
    """
    path = Path(name).expanduser()
    if str(name) in ("best", "last"):
        folder, wanted = LOGS, [f"{name}.ckpt"]
    elif path.is_dir():
        folder, wanted = path, ["best.ckpt", "last.ckpt"]
    else:
        if not path.is_file():
            raise UserError(f"{option}: there is no file {path}")
        return path
    for file_name in wanted:
        found = [file for file in folder.rglob(file_name) if file.is_file()]
        if found:
            return max(found, key=lambda file: file.stat().st_mtime)
    raise UserError(f"{option}: got {name}, but there is no {' nor '.join(wanted)} in {folder} or the folders below it")


def read_checkpoint(path: str | os.PathLike[str], *, option: str = "--ckpt_path") -> dict[str, Any]:
    """Read one of this project's checkpoints on the CPU, without running any code in it.

    Args:
        path: The file.
        option: What an error calls it.

    Raises:
        UserError: no such file, or one that is broken, carries code or comes from elsewhere.
    """
    if not Path(path).is_file():
        raise UserError(f"{option}: there is no file {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"{option}: {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # torch raises whatever the broken byte happened to mean
        raise UserError(
            f"{option}: {path} is not a readable checkpoint: it is damaged, or carries code, which is never run"
        ) from error
    known = checkpoint if isinstance(checkpoint, dict) else {}
    missing = [key for key in ("state_dict", "hyper_parameters", "sizes", "history", "window") if key not in known]
    if missing:
        raise UserError(f"{option}: {path} is not a checkpoint of this trainer, it has no {', '.join(missing)}")
    return known
