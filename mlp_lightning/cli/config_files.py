"""Config files named on the command line: found here or in a folder of configs, and looked at before parsing."""

import os
from pathlib import Path
from typing import Any

import yaml

from mlp_lightning.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"
# A few lines of aliases to aliases can stand for more values than the memory holds.
MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML's plain values, of which no key may stand twice: the later one would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Before the keys of << come in, which those beside it may override.
        own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for name in own:
            if own.count(name) > 1:
                raise yaml.YAMLError(f"the key {name} stands twice, in the group of line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def find_configs(arguments: list[str], folder: Path) -> tuple[list[str], str]:
    """Arguments whose ``--config NAME`` are paths, from here or else from ``folder``; and the last one's stem.

    Raises:
        UserError: no such config in either place, or one that is not YAML of options by name.
    """
    found, run_name = [], "default"
    is_config = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if is_config or (equals and name in ("--config", "-c")):
            path = find_config(argument if is_config else value, folder)
            found.append(str(path) if is_config else f"{name}={path}")
            run_name = path.stem
            is_config = False
        else:
            found.append(argument)
            is_config = argument in ("--config", "-c")
    return found, run_name


def find_config(name: str, folder: Path) -> Path:
    """The path of a config, from here or else from ``folder``; raises UserError as ``find_configs``."""
    for path in (Path(name), folder / name):
        if os.path.isfile(path):  # which a name that is too long does not upset
            _check_config(path)
            return path
    known = ", ".join(sorted(path.name for path in folder.glob("*.yaml")))
    raise UserError(f"--config: there is no file {name!r}, neither here nor in {folder}, which holds {known}")


def _check_config(path: Path) -> None:
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if _count(config, {}) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
    except RecursionError as error:
        raise UserError(f"--config: {path} is nested too deeply, or refers to itself") from error
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--config: {path} is not a readable YAML file: {error}") from error
    if not isinstance(config, dict):
        held = "is empty" if config is None else f"holds {config!r:.60}"
        raise UserError(f"--config: {path} {held}, must hold options by name, such as model: {{lr: 0.001}}")
    for name, value in config.items():
        # The parser overlooks a group that is no group; text may be the path of one.
        if name in ("trainer", "model", "data") and not isinstance(value, dict | str | None):
            raise UserError(f"{name}: got {value} in {path}, must be options by name")
        if name == "data" and isinstance(value, dict) and not isinstance(value.get("deform"), dict | str | None):
            raise UserError(f"data.deform: got {value['deform']} in {path}, must be options by name")
        inner = value if name in ("trainer", "model", "data") and isinstance(value, dict) else {}
        for key in (name, *inner):
            if not isinstance(key, str):
                raise UserError(f"--config: {path} has the key {key!r}, must hold options by name")


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are once aliases are written out; those that were counted are ``known`` by identity."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        held = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(each, known) for each in held)
    return known[id(value)]
