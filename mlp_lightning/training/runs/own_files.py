"""No path of a checkpoint is followed: the files of a ModelCheckpoint are those in its own folder.

A ModelCheckpoint removes the file that its state calls the worst, and Lightning removes folders and asks addresses on
the network for one. Whoever made the file chose that state.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_rules import MODEL_CHECKPOINT
from mlp_lightning.files.regular import modified
from mlp_lightning.files.rules import Others, Wrong, take

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
MOST = 10**6


def own_file(folder: str | Path | None, path: str, suffix: str = ".ckpt") -> str:
    """The checkpoint in ``folder`` that has the file name of ``path``; empty if there is none."""
    name = re.split(r"[/\\]", path)[-1]
    if folder is None or "://" in str(folder) or not name.endswith(suffix):
        return ""
    file = Path(folder, name)
    return "" if file.is_symlink() or modified(file) is None else str(file)


def forget_paths(callbacks: Iterable[Callback], states: dict[str, Any]) -> None:
    """Let the states of ModelCheckpoints name files of their own folders only.

    Where such a state needs a file that is not there, the callback begins anew.

    Args:
        callbacks: the trainer's.
        states: theirs in a checkpoint, by ``state_key``; changed in place.

    Raises:
        UserError: a state is not that of a ModelCheckpoint.
    """
    for callback in callbacks:
        state = states.get(callback.state_key)
        if isinstance(callback, ModelCheckpoint) and state and not getattr(callback, "names_own_files", False):
            try:
                taken = take(state, Others(MODEL_CHECKPOINT), callback.state_key, MOST)
            except Wrong as error:
                raise UserError(f"--ckpt_path: the checkpoint's state of a callback is none: {error}") from error
            states[callback.state_key] = _with_own_files(callback, taken)


def _with_own_files(callback: ModelCheckpoint, state: dict[str, Any]) -> dict[str, Any]:
    folder, suffix = callback.dirpath, callback.FILE_EXTENSION
    scores = {own_file(folder, path, suffix): score for path, score in state.get("best_k_models", {}).items()}
    scores.pop("", None)
    paths = {name: own_file(folder, state.get(name) or "", suffix) for name in PATHS}
    best = state["best_model_score"]
    if callback.monitor is not None:
        if paths["kth_best_model_path"] not in scores:
            # As long as there are fewer than it keeps, it has none to remove.
            paths["kth_best_model_path"] = ""
        full = callback.save_top_k != -1 and len(scores) >= callback.save_top_k
        numbers = [*scores.values(), *([] if best is None else [best])]
        finite = bool(numbers) and bool(torch.stack([*map(torch.as_tensor, numbers)]).isfinite().all())
        if best is None or not finite or (full and not paths["kth_best_model_path"]):
            # Lightning takes up no empty state.
            return {}
    return {**state, **paths, "dirpath": folder, "best_k_models": scores}
