"""Where a training goes on: the newest checkpoint of a config's runs that is whole."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace

from mlp_lightning.checkpoint_file import checkpoints_beside, read_checkpoint
from mlp_lightning.errors import UserError
from mlp_lightning.training.run_folder import write_json

STARTED = "started.json"
# Stands in a checkpoint for how many bytes of TensorBoard events its run had written.
EVENTS = "events"


class Origin(NamedTuple):
    """The run that a checkpoint is of, and whether the training goes on in its folder."""

    run: Path
    goes_on: bool

    @property
    def version(self) -> int:
        """The number of its folder."""
        return int(self.run.name.removeprefix("version_"))


def origin_of(path: Path, checkpoint: dict[str, Any], runs: Path, *, changed: bool) -> Origin | None:
    """The run under ``runs`` whose curves a training from ``checkpoint`` carries on; None for a file from elsewhere.

    It goes on in the same folder unless that would mix or lose results: where options have changed, or where the run
    has come further than a checkpoint other than its last.ckpt.

    Args:
        path: The checkpoint.
        checkpoint: Its content.
        runs: The folder of a config's runs.
        changed: Whether the options are others than the checkpoint's.
    """
    checkpoints = path.parent.resolve()
    run = runs / checkpoints.parent.name
    if checkpoints.name != "checkpoints" or checkpoints.parent not in [folder.resolve() for folder in _folders(runs)]:
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
    write_json(folder / STARTED, {"resumed_from": None if resumed_from is None else str(Path(resumed_from).resolve())})


def newest_checkpoint(runs: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Where the newest training under ``runs`` has come to.

    A training that was resumed, and ended before its first checkpoint, has come to where it was resumed from.

    Args:
        runs: The folder of a config's runs, ``version_0`` and so on.

    Returns:
        The newest checkpoint that is whole, its last.ckpt before all others, or None; its content; and a line for
        each damaged one that was passed over.
    """
    passed_over: list[str] = []
    for path in _candidates(runs):
        try:
            return path, read_checkpoint(path), passed_over
        except UserError as error:
            passed_over.append(str(error).removeprefix("--ckpt_path: "))
    return None, {}, passed_over


def _candidates(runs: Path) -> Iterator[Path]:
    for folder in _folders(runs):
        files = list((folder / "checkpoints").glob("*.ckpt"))
        # What neither holds a checkpoint nor began to train is an evaluation.
        if files or (folder / STARTED).is_file():
            yield from sorted(files, key=lambda path: (path.name != "last.ckpt", -path.stat().st_mtime_ns))
            yield from _earlier(folder, {folder.resolve()})
            return


def _folders(runs: Path) -> list[Path]:
    """The runs' folders, the newest first."""
    folders = [path for path in runs.glob("version_*") if path.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("version_")), reverse=True)


def _earlier(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """What the run in ``folder`` was resumed from, what is beside that, and so on."""
    try:
        name = json.loads((folder / STARTED).read_text())["resumed_from"]
    except FileNotFoundError:
        return
    if name is None:
        return
    yield Path(name)
    if Path(name).is_file():
        yield from checkpoints_beside(Path(name))
    before = Path(name).parent.parent
    if before not in seen:
        yield from _earlier(before, {*seen, before})


def changed_options(group: str, options: Namespace, trained: dict[str, Any]) -> list[str]:
    """One line each for the options that are no longer as ``trained``; those given now count."""
    lines = []
    for name, value in trained.items():
        if name in options and isinstance(options[name], Namespace):
            lines += changed_options(f"{group}.{name}", options[name], value)
        elif name in options and options[name] != value:
            lines.append(f"{group}.{name}: {options[name]} from now on, the checkpoint was trained with {value}")
    return lines
