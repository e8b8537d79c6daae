import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlp_lightning.training.denormals import no_denormals


def test_numbers_that_are_too_small_are_0_within():
    small = torch.full((1000,), 1e-39)
    assert (2 * small).count_nonzero() == 1000
    with no_denormals():
        assert (2 * small).count_nonzero() == 0
    with pytest.raises(KeyError), no_denormals():
        raise KeyError
    assert (2 * small).count_nonzero() == 1000


def test_threads_that_start_within_do_likewise():
    """In a process of its own, which has none before."""
    program = """if True:
        import torch
        from mlp_lightning.training.denormals import no_denormals
        torch.set_num_threads(2)
        with no_denormals():
            print(int((2 * torch.full((1_000_000,), 1e-39)).count_nonzero()))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.stdout.split() == ["0"], done.stderr


def test_every_command_runs_so(run_main, monkeypatch):
    found = []
    monkeypatch.setattr("mlp_lightning.cli.CLI", lambda args: found.append(float(2 * torch.tensor(1e-39))))
    run_main("fit")
    assert found == [0.0]
    assert float(2 * torch.tensor(1e-39)) > 0
