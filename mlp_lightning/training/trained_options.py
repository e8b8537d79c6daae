"""The options that a checkpoint's training had, checked against the signatures that take them."""

from collections.abc import Mapping
from typing import Any, get_type_hints

from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError
from mlp_lightning.files.rules import shown
from mlp_lightning.files.typed import fits
from mlp_lightning.training.configured import ConfiguredModule

GROUPS = (("hyper_parameters", "model", ConfiguredModule), ("datamodule_hyper_parameters", "data", DataModule))


def check_trained(checkpoint: Mapping[str, Any], path: object, option: str = "--ckpt_path") -> None:
    """Refuse options of another type than theirs; their ranges are checked by what takes them.

    Args:
        checkpoint: from ``read_checkpoint``.
        path: of its file.
        option: What an error calls it.

    Raises:
        UserError: likewise.
    """
    for key, group, kind in GROUPS:
        hints = get_type_hints(kind.__init__)
        for name, value in checkpoint.get(key, {}).items():
            if name in hints and not fits(value, hints[name]):
                raise UserError(
                    f"{option}: {path} is not a checkpoint of this trainer, its option {group}.{name} is {shown(value)}"
                )
