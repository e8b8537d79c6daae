"""Where a training goes on: the newest checkpoint of a config's runs that is whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from mlp_lightning.checkpoint_file import checkpoints_beside, read_checkpoint
from mlp_lightning.errors import UserError
from mlp_lightning.training.run_folder import write_json

STARTED = "started.json"


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
    folders = [path for path in runs.glob("version_*") if path.name.removeprefix("version_").isdigit()]
    for folder in sorted(folders, key=lambda path: int(path.name.removeprefix("version_")), reverse=True):
        files = list((folder / "checkpoints").glob("*.ckpt"))
        # What neither holds a checkpoint nor began to train is an evaluation.
        if files or (folder / STARTED).is_file():
            yield from sorted(files, key=lambda path: (path.name != "last.ckpt", -path.stat().st_mtime_ns))
            yield from _earlier(folder, {folder.resolve()})
            return


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
    return [
        f"{group}.{name}: {options[name]} from now on, the checkpoint was trained with {value}"
        for name, value in trained.items()
        if name in options and not isinstance(options[name], Namespace) and options[name] != value
    ]
