"""What every benchmark states: processor, threads and versions."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "lightning", "jax", "keras", "scikit-learn", "numpy")


def machine() -> str:
    """One line: processor, threads, versions of what is installed."""
    return f"{_processor()}, {torch.get_num_threads()} threads, " + ", ".join(
        f"{name} {number}" for name, number in versions().items()
    )


def versions() -> dict[str, str]:
    """Python and the packages that are installed, by name."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def stolen() -> float:
    """Seconds that the host has kept from this machine's processors since it started; 0 where nobody counts them."""
    stat = Path("/proc/stat")
    return int(stat.read_text().split()[8]) / 100 if stat.exists() else 0.0


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
