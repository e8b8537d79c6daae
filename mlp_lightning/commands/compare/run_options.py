"""What the options of a run come to before it starts: its config, the configs that this names, and the settings."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from mlp_lightning.errors import UserError

# Groups of options, in whose place a config may name a file of them.
GROUPS = ("trainer", "model", "data", "deform")
# Configs that name configs that name configs.
MOST_LEVELS = 5


def read_config(path: Path, levels: int = MOST_LEVELS) -> Any:
    """The options in a config, with those of the files it names in their place; None if it is no YAML."""
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        # The fit itself says what is wrong with it.
        return None
    return _with_named_configs(options, path.parent, levels)


def _with_named_configs(options: Any, folder: Path, levels: int) -> Any:
    if not isinstance(options, dict):
        return options
    return {name: _group(name, value, folder, levels) for name, value in options.items()}


def _group(name: Any, value: Any, folder: Path, levels: int) -> Any:
    if isinstance(value, str) and str(name).rpartition(".")[2] in GROUPS and levels:
        for path in (folder / value, Path(value)):
            if os.path.isfile(path):
                return read_config(path, levels - 1)
    return _with_named_configs(value, folder, levels)


def all_options(config: Any, settings: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Options by their dotted names, such as ``data.root``.

    Args:
        config: from ``read_config``.
        settings: options and their values as on the command line, which count more.
    """
    options = dict(_flat("", config))
    for name, text in settings:
        value: Any = text
        with suppress(yaml.YAMLError):
            value = yaml.safe_load(text)
        options.update(_flat(name, _group(name, value, Path(), MOST_LEVELS)))
    return options


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value


def check_leaves_results(options: Mapping[str, Any], where: str) -> None:
    """Refuse a fit that would leave nothing to compare.

    Args:
        options: by their dotted names.
        where: which run, for the error.

    Raises:
        UserError: an option that leaves out the test, or the files of the run.
    """
    needed = {
        "test": (lambda value: value == "never", "last or best"),
        "trainer.limit_test_batches": (lambda value: value is not None and value == 0, "null or above 0"),
        "trainer.logger": (lambda value: value is False, "true or null"),
        "trainer.fast_dev_run": (bool, "false"),
        "trainer.enable_checkpointing": (lambda value: value is False, "true or null"),
    }
    for name, (leaves_nothing, allowed) in needed.items():
        value = options.get(name)
        if leaves_nothing(value):
            shown = str(value).lower() if isinstance(value, bool) else value
            raise UserError(
                f"{name}: got {shown} in {where}, must be {allowed}: compare reads the test's results and the "
                "checkpoints that a fit leaves"
            )
