"""Runs that are killed, damaged and starved, as ``make faults`` does it, in short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.mark.slow
def test_every_fault_ends_in_a_clear_error_or_the_same_result(cache_home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    done = subprocess.run([sys.executable, FAULTS, "--kills", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^kill -9 +3 of 3$", done.stdout, re.MULTILINE), done.stdout
