"""Environment variables that tell a process its place among others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlp_lightning.cli.environment import check_environment
from mlp_lightning.errors import UserError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "0",
}


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_LOCALID"])
@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5", "1e1", "²", "0x1"])
def test_ranks_are_whole_numbers(name, value):
    with pytest.raises(UserError, match=f"^environment variable {name}: got .*, must be a whole number, at least 0$"):
        check_environment({name: value})


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_NNODES"])
@pytest.mark.parametrize("value", ["two", "", "0", "-3"])
def test_counts_are_at_least_one(name, value):
    with pytest.raises(UserError, match=f"^environment variable {name}: got .*, must be a whole number, at least 1$"):
        check_environment({name: value})


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1"])
def test_ports_are_within_their_range(value):
    with pytest.raises(
        UserError, match=r"^environment variable MASTER_PORT: got .*, must be a whole number from 1 to 6"
    ):
        check_environment({"MASTER_PORT": value})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({**TORCHRUN, "RANK": "2"}, "RANK: got 2, must be less than WORLD_SIZE, 2"),
        ({k: v for k, v in TORCHRUN.items() if k != "LOCAL_RANK"}, "LOCAL_RANK: not set, but TORCHELASTIC_RUN_ID is"),
        ({k: v for k, v in TORCHRUN.items() if k != "WORLD_SIZE"}, "WORLD_SIZE: not set, but TORCHELASTIC_RUN_ID is"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_NTASKS_PER_NODE"}, "SLURM_NTASKS: got 4 without SLURM_NTASKS_"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, "SLURM_PROCID: not set, but SLURM_NTASKS is"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_NODEID"}, "SLURM_NODEID: not set, but SLURM_NTASKS is"),
        ({**SLURM, "SLURM_PROCID": "4"}, "SLURM_PROCID: got 4, must be less than SLURM_NTASKS, 4"),
    ],
)
def test_what_does_not_fit_together(variables, message):
    with pytest.raises(UserError, match=f"^environment variable {message}"):
        check_environment(variables)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"PATH": "/bin", "LOCAL_RANK": "0"},
        TORCHRUN,
        SLURM,
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"},
    ],
)
def test_what_fits_is_taken(variables):
    check_environment(variables)


@pytest.mark.parametrize("command", [["fit"], ["init", "nothing"]], ids=" ".join)
def test_it_is_one_line(command):
    done = subprocess.run(
        [sys.executable, "train.py", *command],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "LOCAL_RANK": "abc"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: environment variable LOCAL_RANK: got 'abc', must be a whole number, at least 0\n",
    )
