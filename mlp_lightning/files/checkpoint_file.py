"""Checkpoints on disk: which file is meant, and what it holds, read as data only and without Lightning."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_rules import checked
from mlp_lightning.files.regular import modified, read_regular
from mlp_lightning.files.rules import Wrong
from mlp_lightning.files.seal import FORMAT, format_of

LOGS = Path("lightning_logs")
# In a run's folder, the better one first.
EVALUATED = ("best.ckpt", "last.ckpt")
LARGEST_METRICS = 10**8  # bytes
KEYS = ("state_dict", "hyper_parameters", "sizes", "history", "window")
# Stands among the content of a sealed file, so that one whose seal was lost is not taken for one from before seals.
FORMAT_KEY = "mlp_lightning_format"


def find_checkpoint(
    name: str | os.PathLike[str],
    *,
    option: str = "--ckpt_path",
    logs: Path = LOGS,
    wanted: Sequence[str] = EVALUATED,
) -> Path:
    """The checkpoint that is meant.

    Args:
        name: A file; a folder of a run, or of several, for the newest run's tested file, else its ``best.ckpt``, else
            its ``last.ckpt``; or one of the words ``best`` and ``last`` for the newest of that name under ``logs``.
        option: What an error calls it.
        logs: Where runs are.
        wanted: What is looked for in a folder; the tested file only with the default.

    Raises:
        UserError: there is no such file, or the newest run has no ``best.ckpt``: an older run's is not meant.
    """
    path = Path(name).expanduser()
    if str(name) in ("best", "last"):
        folder, wanted = logs, [f"{name}.ckpt"]
    elif str(name) and os.path.isdir(path):
        folder = path
    else:
        if not str(name) or not os.path.isfile(path):
            raise UserError(f"{option}: there is no file {name or 'without a name'}")
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
        tested = tested_file(newest.parent.parent) if tuple(wanted) == EVALUATED else None
        files = [newest.with_name(file_name) for file_name in (tested, *wanted) if file_name]
        return next(file for file in files if file.is_file())
    return newest


def _newest(folder: Path, names: Sequence[str]) -> Path | None:
    found = [file for file_name in names for file in folder.rglob(file_name)]
    ages = {file: age for file in found if (age := modified(file)) is not None}
    return max(ages, key=lambda file: ages[file], default=None)


def tested_file(run_folder: Path) -> str | None:
    """The name of the checkpoint that a run's ``metrics.json`` is of; None where it names none."""
    try:
        name = json.loads(read_regular(run_folder / "metrics.json", LARGEST_METRICS))["weights"]["file"]
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
    ages = {other: age for other in path.parent.glob("*.ckpt") if (age := modified(other)) is not None}
    limit = ages.get(path, modified(path)) or 0
    others = [other for other in ages if other.name != path.name]
    return sorted(others, key=lambda other: (ages[other] > limit, -ages[other], other.name))


def _good_ones(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        with suppress(UserError):
            _read(path, "", KEYS)
            yield path


def _read(path: Path, option: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        data = read_regular(path)
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
        _check_archive(data)
        checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken byte happened to mean
        # What an intact seal vouches for is no accident.
        why = "it is damaged, or carries code" if file_format is None else "it carries code"
        if isinstance(error, Wrong):
            raise UserError(f"{option}: {path} is not a readable checkpoint: {error}") from error
        raise UserError(f"{option}: {path} is not a readable checkpoint: {why}, which is never run") from error
    known = dict(dict.items(checkpoint)) if isinstance(checkpoint, dict) else {}
    if known.pop(FORMAT_KEY, None) is not None and file_format is None:
        raise UserError(f"{option}: {path} is not a readable checkpoint: it is damaged, the seal at its end is missing")
    missing = [key for key in keys if key not in known]
    if missing:
        raise UserError(f"{option}: {path} is not a checkpoint of this trainer, it has no {', '.join(missing)}")
    try:
        return checked({"global_step": 0, **known}, len(data))
    except Wrong as error:
        raise UserError(f"{option}: {path} is not a checkpoint of this trainer, {error}") from error


def _check_archive(data: bytes) -> None:
    """Refuse an archive that unpacks to more than the file holds; torch itself never compresses.

    Raises:
        Wrong: likewise.
        Exception: it is no archive.
    """
    with ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > len(data):
        raise Wrong("its archive unpacks to more than the file holds")
    # With something before the archive, or two lists of its members, torch would read others than these.
    end = data.rfind(b"PK\5\6")
    two_lists = (
        data[end - 20 : end - 16] == b"PK\6\7" and int.from_bytes(data[end - 12 : end - 4], "little") != end - 76
    )
    if two_lists or min(member.header_offset for member in members):
        raise Wrong("its archive is not as torch writes it")
