"""Checkpoints on disk: which file is meant, and what it holds, read as data only and without Lightning."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mlp_lightning.errors import UserError
from mlp_lightning.seal import FORMAT, format_of

LOGS = Path("lightning_logs")
KEYS = ("state_dict", "hyper_parameters", "sizes", "history", "window")
# What these must be, where they are there.
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("state_dict", "hyper_parameters", "history", "window", "datamodule_hyper_parameters"), dict),
    **dict.fromkeys(("data", "callbacks", "loops"), dict),
    "optimizer_states": list,
    "sizes": (list, tuple),
}
# Stands among the content of a sealed file, so that one whose seal was lost is not taken for one from before seals.
FORMAT_KEY = "mlp_lightning_format"


def find_checkpoint(name: str | os.PathLike[str], *, option: str = "--ckpt_path", logs: Path = LOGS) -> Path:
    """The checkpoint that is meant.

    Args:
        name: A file; a folder of a run, or of several, for the newest run's tested file, else its ``best.ckpt``, else
            its ``last.ckpt``; or one of the words ``best`` and ``last`` for the newest of that name under ``logs``.
        option: What an error calls it.
        logs: Where runs are.

    Raises:
        UserError: there is no such file, or the newest run has no ``best.ckpt``: an older run's is not meant.
    """
    path = Path(name).expanduser()
    if str(name) in ("best", "last"):
        folder, wanted = logs, [f"{name}.ckpt"]
    elif os.path.isdir(path):
        folder, wanted = path, ["best.ckpt", "last.ckpt"]
    else:
        if not os.path.isfile(path):
            raise UserError(f"{option}: there is no file {path}")
        return path
    newest = _newest(folder, wanted)
    if newest is None:
        missing = " nor ".join(wanted)
        raise UserError(f"{option}: got {name}, but there is no {missing} in {folder} or the folders below it")
    if str(name) == "best" and (run := _newest(folder, ["best.ckpt", "last.ckpt"])) != newest:
        assert run is not None
        if not run.with_name("best.ckpt").is_file():
            raise UserError(f"{option}: got best, but the newest run has no best.ckpt, only {run}; give that file")
    if len(wanted) > 1:
        files = [newest.with_name(file_name) for file_name in (tested_file(newest.parent.parent), *wanted) if file_name]
        return next(file for file in files if file.is_file())
    return newest


def _newest(folder: Path, names: Sequence[str]) -> Path | None:
    found = [file for file_name in names for file in folder.rglob(file_name) if file.is_file()]
    return max(found, key=lambda file: file.stat().st_mtime_ns, default=None)


def tested_file(run_folder: Path) -> str | None:
    """The name of the checkpoint that a run's ``metrics.json`` is of; None where it names none."""
    try:
        name = json.loads((run_folder / "metrics.json").read_bytes())["weights"]["file"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return name if isinstance(name, str) and name == Path(name).name and name.endswith(".ckpt") else None


def read_checkpoint(
    path: str | os.PathLike[str], *, option: str = "--ckpt_path", keys: Sequence[str] = KEYS
) -> dict[str, Any]:
    """Read one of this project's checkpoints on the CPU, without running any code in it.

    The bytes that are checked against the seal are the very ones that are loaded. A file from before there were seals
    is loaded as it is.

    Args:
        path: The file.
        option: What an error calls it.
        keys: What it must hold.

    Raises:
        UserError: no such file, or one that is broken, carries code or comes from elsewhere; the message names a good
            one beside it, the next older one first.
    """
    try:
        return _read(Path(path), option, keys)
    except UserError as error:
        if not os.path.isfile(path):
            raise
        good = next(_good_ones(checkpoints_beside(Path(path))), None)
        if good is None:
            raise
        raise UserError(f"{error}; beside it, {good} is whole") from error


def checkpoints_beside(path: Path) -> list[Path]:
    """The other checkpoints in the folder of ``path``: the older ones, the newest first, then the newer ones."""
    limit = path.stat().st_mtime_ns
    ages = {other: other.stat().st_mtime_ns for other in path.parent.glob("*.ckpt") if other.name != path.name}
    return sorted(ages, key=lambda other: (ages[other] > limit, -ages[other], other.name))


def _good_ones(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        with suppress(UserError):
            _read(path, "", KEYS)
            yield path


def _read(path: Path, option: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        file_format = format_of(data)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{option}: there is no file {path}") from error
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{option}: {path} is not a readable checkpoint: it is damaged, {error}") from error
    if file_format is not None and file_format > FORMAT:
        raise UserError(
            f"{option}: {path} is of format {file_format}, and this version of mlp_lightning reads up to {FORMAT}; "
            "read it with the version that wrote it, or a newer one"
        )
    try:
        checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken byte happened to mean
        # What an intact seal vouches for is no accident.
        why = "it is damaged, or carries code" if file_format is None else "it carries code"
        raise UserError(f"{option}: {path} is not a readable checkpoint: {why}, which is never run") from error
    known = checkpoint if isinstance(checkpoint, dict) else {}
    if known.pop(FORMAT_KEY, None) is not None and file_format is None:
        raise UserError(f"{option}: {path} is not a readable checkpoint: it is damaged, the seal at its end is missing")
    missing = [key for key in keys if key not in known]
    if missing:
        raise UserError(f"{option}: {path} is not a checkpoint of this trainer, it has no {', '.join(missing)}")
    for key, kind in KINDS.items():
        if key in known and not isinstance(known[key], kind):
            name = "dict" if kind is dict else "list"
            raise UserError(f"{option}: {path} is not a checkpoint of this trainer, its {key} is no {name}")
    if not all(isinstance(size, int) and size > 0 for size in known.get("sizes", ())):
        raise UserError(f"{option}: {path} is not a checkpoint of this trainer, its sizes are {known['sizes']}")
    return known
