import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from mlp_lightning.cli.main import CLI
from mlp_lightning.engines.native.denormals import no_denormals


def test_numbers_that_are_too_small_are_0_within():
    small = torch.full((1000,), 1e-39)
    assert (2 * small).count_nonzero() == 1000
    with no_denormals():
        assert (2 * small).count_nonzero() == 0
    with pytest.raises(KeyError), no_denormals():
        raise KeyError
    assert (2 * small).count_nonzero() == 1000


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_it_is_as_it_was_afterwards(before, fails):
    torch.set_flush_denormal(before)
    try:
        with suppress(KeyError), no_denormals(), no_denormals():
            if fails:
                raise KeyError
        assert (2 * torch.full((1000,), 1e-39)).count_nonzero() == (0 if before else 1000)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("compiler", ["cc", ""])
@pytest.mark.parametrize("starts_before", [True, False])
def test_in_all_threads(compiler, starts_before):
    """In a process of its own, whose threads have started or not; without a compiler the former go on as they were."""
    program = f"""if True:
        import torch
        from mlp_lightning.engines.native.denormals import no_denormals
        torch.set_num_threads(2)
        small, counts = torch.full((1_000_000,), 1e-39) if {starts_before} else torch.tensor([1e-39]).expand(10**6), []
        with no_denormals():
            counts.append(int((2 * small).count_nonzero()))
        counts.append(int((2 * small).count_nonzero()))
        print(*counts)
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "CC": compiler},
        check=False,
    )
    within, after = map(int, done.stdout.split())
    if compiler or not starts_before:
        assert within == 0
    if compiler:
        assert after == 1_000_000


@pytest.mark.parametrize(("subcommand", "expected"), [("fit", 0.0), ("test", 2e-39)])
def test_a_training_runs_so(subcommand, expected, monkeypatch):
    found = []
    monkeypatch.setattr(
        CLI.__base__, "_run_subcommand", lambda self, name: found.append(float(2 * torch.tensor(1e-39)))
    )
    object.__new__(CLI)._run_subcommand(subcommand)
    assert found == pytest.approx([expected], rel=1e-5, abs=0)
