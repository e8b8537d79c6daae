"""The program as its user sees it: the command that was typed, and the version."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CONSOLE, MODULE, SCRIPT = "mlp-lightning", "python -m mlp_lightning", "python train.py"


def program() -> str:
    """``mlp-lightning``, ``python -m mlp_lightning``, or ``python train.py`` in a checkout and from anywhere else."""
    name = Path(sys.argv[0] if sys.argv else "").name.lower()
    if name.removesuffix(".exe") == CONSOLE:
        return CONSOLE
    return MODULE if name in ("__main__.py", "-m") else SCRIPT


def version_of_package() -> str:
    """The version, as ``pyproject.toml`` has it."""
    try:
        return version("mlp-lightning")
    except PackageNotFoundError:
        # A checkout that is not installed.
        file = Path(__file__).resolve().parents[1] / "pyproject.toml"
        project: str = tomllib.loads(file.read_text())["project"]["version"]
        return project
