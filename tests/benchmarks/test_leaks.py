"""The search for what grows: its arithmetic, and a short search in a process of its own."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

LEAKS = Path(__file__).parents[2] / "benchmarks" / "leaks.py"


@pytest.fixture(scope="module")
def leaks():
    spec = importlib.util.spec_from_file_location("leaks", LEAKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_slope_and_error_are_numpys(leaks):
    hours = np.array([0.0, 0.1, 0.25, 0.3, 0.7, 1.0])
    values = 400 + 20 * hours + np.array([0.5, -1.0, 0.25, 1.5, -0.75, 0.0])
    (expected, _), covariance = np.polyfit(hours, values, 1, cov=True)
    found = leaks.slope(hours, values)
    assert found == pytest.approx((expected, covariance[0, 0] ** 0.5))


def test_growth_is_told_from_noise(leaks, capsys):
    random = np.random.default_rng(0)
    hours = np.linspace(0, 1, 100)
    noise = random.normal(size=100)
    assert leaks.slope(hours, 500 + 20 * hours + noise).exceeds(16)
    assert not leaks.slope(hours, 500 + 15 * hours + noise).exceeds(16)
    # The slope of noise is above the limit, but not by more than chance.
    few = leaks.slope([0, 0.01, 0.02, 0.03], [500, 501, 500, 502])
    assert few.value > 16
    assert not few.exceeds(16)
    steady = [noise, np.full(100, 20.0), np.full(100, 3.0)]
    assert not leaks.report(list(zip(hours, *steady, strict=True)))
    steady[1] = 20 + np.floor(hours * 10)
    assert leaks.report(list(zip(hours, *steady, strict=True)))
    grown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("grows")]
    assert grown == ["open"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_sample_counts_a_file_and_a_thread(leaks, tmp_path):
    _, files, threads = leaks.sample()
    sampler = leaks.Sampler(1000)
    sampler.start()
    with (tmp_path / "file").open("w"):
        memory, more_files, more_threads = leaks.sample()
        held = np.ones(40 * 2**20 // 8)
        assert 35 < leaks.sample()[0] - memory < 60
        del held
    assert (more_files, more_threads) == (files + 1, threads + 1)
    # One of now, and no other.
    assert sampler.take()[2] == files


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_short_search(cache_home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    done = subprocess.run([sys.executable, LEAKS, "--minutes", "0.1"], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert re.search(r"^resident memory, MiB( +-?[\d.]+){5}", done.stdout, re.MULTILINE), done.stdout + done.stderr
