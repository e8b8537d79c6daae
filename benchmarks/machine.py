"""What every benchmark states: versions, processor and threads."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def machine() -> str:
    """One line: processor, cores used, versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    return (
        f"{name}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}, "
        f"lightning {version('lightning')}"
    )
