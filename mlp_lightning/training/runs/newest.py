"""Where a training resumes: the newest checkpoint of a config's runs that is whole."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import checkpoints_beside, read_checkpoint
from mlp_lightning.files.regular import modified, read_regular, real
from mlp_lightning.training.runs.run_folder import write_json

STARTED = "started.json"
LARGEST_STARTED = 100_000  # bytes
# Stands in a checkpoint for how many bytes of TensorBoard events its run had written.
EVENTS = "events"


class Origin(NamedTuple):
    """The run that a checkpoint is of, and whether the training resumes in its folder."""

    run: Path
    goes_on: bool

    @property
    def version(self) -> int:
        """The number of its folder."""
        return int(self.run.name.removeprefix("version_"))


def origin_of(path: Path, checkpoint: dict[str, Any], runs: Path, *, changed: bool) -> Origin | None:
    """The run under ``runs`` whose curves a training from ``checkpoint`` carries on; None for a file from elsewhere.

    It resumes in the same folder unless that would mix or lose results: where options have changed, or where the run
    has come further than a checkpoint other than its last.ckpt.

    Args:
        path: The checkpoint.
        checkpoint: Its content.
        runs: The folder of a config's runs.
        changed: Whether the options are others than the checkpoint's.
    """
    checkpoints = real(path.parent)
    run = runs / checkpoints.parent.name
    if checkpoints.name != "checkpoints" or checkpoints.parent not in [real(folder) for folder in _folders(runs)]:
        return None
    # Older versions did not note how far the events went.
    if EVENTS not in checkpoint:
        return None
    goes_back = path.name != "last.ckpt" and _reaches_beyond(checkpoint["global_step"], checkpoints_beside(path))
    return Origin(run, not changed and not goes_back)


def _reaches_beyond(step: int, paths: Iterable[Path]) -> bool:
    for path in paths:
        with suppress(UserError):
            if read_checkpoint(path)["global_step"] > step:
                return True
    return False


def note_start(folder: Path, resumed_from: str | None) -> None:
    """Keep in a run's folder that it is a training, and the checkpoint it went on from."""
    write_json(folder / STARTED, {"resumed_from": None if resumed_from is None else str(real(resumed_from))})


def newest_checkpoint(runs: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Where the newest training under ``runs`` has come to.

    A training that was resumed, and ended before its first checkpoint, has come to where it was resumed from.

    Args:
        runs: The folder of a config's runs, ``version_0`` and so on.

    Returns:
        The newest checkpoint that is whole, its last.ckpt before all others, or None; its content; and a line for
        each damaged file that was skipped.
    """
    skipped: list[str] = []
    for path in _candidates(runs, skipped):
        try:
            return path, read_checkpoint(path), skipped
        except UserError as error:
            skipped.append(str(error).removeprefix("--ckpt_path: "))
    return None, {}, skipped


def _candidates(runs: Path, skipped: list[str]) -> Iterator[Path]:
    for folder in _folders(runs):
        ages = {file: age for file in (folder / "checkpoints").glob("*.ckpt") if (age := modified(file)) is not None}
        # What neither holds a checkpoint nor began to train is an evaluation.
        if ages or (folder / STARTED).is_file():
            yield from sorted(ages, key=lambda path: (path.name != "last.ckpt", -ages[path]))
            yield from _earlier(folder, {real(folder)}, skipped)
            return


def _folders(runs: Path) -> list[Path]:
    """The runs' folders, the newest first."""
    numbers = {path: number for path in runs.glob("version_*") if (number := version_of(path.name)) is not None}
    return sorted(numbers, key=lambda path: numbers[path], reverse=True)


def version_of(name: str) -> int | None:
    """N for ``version_N`` as Lightning writes it; None for other names, such as version_007."""
    match = re.fullmatch(r"version_(0|[1-9][0-9]{0,17})", name)
    return None if match is None else int(match[1])


def _earlier(folder: Path, seen: set[Path], skipped: list[str]) -> Iterator[Path]:
    """What the run in ``folder`` was resumed from, what is beside that, and so on."""
    path = folder / STARTED
    try:
        started = json.loads(read_regular(path, LARGEST_STARTED))
        name = started["resumed_from"]
        if not (name is None or (isinstance(name, str) and name and "\0" not in name)):
            raise ValueError(name)
    except FileNotFoundError:
        return
    except OSError as error:
        skipped.append(f"{path} cannot be read: {error.strerror}")
        return
    except (ValueError, TypeError, KeyError, RecursionError):
        skipped.append(f"{path} is damaged, it does not say what the run was resumed from")
        return
    if name is None:
        return
    yield Path(name)
    if modified(Path(name)) is not None:
        yield from checkpoints_beside(Path(name))
    before = Path(name).parent.parent
    if before not in seen:
        yield from _earlier(before, {*seen, before}, skipped)


def changed_options(group: str, options: Namespace, trained: dict[str, Any]) -> list[str]:
    """One line each for the options that are no longer as ``trained``; those given now count."""
    lines = []
    for name, value in trained.items():
        if name in options and isinstance(options[name], Namespace):
            lines += changed_options(f"{group}.{name}", options[name], value)
        elif name in options and options[name] != value:
            lines.append(f"{group}.{name}: {options[name]} from now on, the checkpoint was trained with {value}")
    return lines
