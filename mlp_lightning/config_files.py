"""Config files named on the command line: found here or in a folder of configs, and looked at before parsing."""

from pathlib import Path

import yaml

from mlp_lightning.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"


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
        if path.is_file():
            _check_config(path)
            return path
    known = ", ".join(sorted(path.name for path in folder.glob("*.yaml")))
    raise UserError(f"--config: there is no file {name!r}, neither here nor in {folder}, which holds {known}")


def _check_config(path: Path) -> None:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--config: {path} is not a readable YAML file: {error}") from error
    if not isinstance(config, dict):
        held = "is empty" if config is None else f"holds {config!r:.60}"
        raise UserError(f"--config: {path} {held}, must hold options by name, such as model: {{lr: 0.001}}")
    for name, value in config.items():
        # The parser overlooks a group that is no group; text may be the path of one.
        if name in ("trainer", "model", "data") and not isinstance(value, dict | str | None):
            raise UserError(f"{name}: got {value} in {path}, must be options by name")
        if not isinstance(name, str):
            raise UserError(f"--config: {path} has the key {name!r}, must hold options by name")
