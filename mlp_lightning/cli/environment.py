"""The environment variables by which torchrun, SLURM or a user tell a process its place among others."""

import os
from collections.abc import Mapping

from mlp_lightning.errors import UserError

COUNTS = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES")
RANKS = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "JSM_NAMESPACE_RANK",
    "JSM_NAMESPACE_LOCAL_RANK",
    "TORCHELASTIC_RESTART_COUNT",
)
PORTS = ("MASTER_PORT", "STANDALONE_PORT")
BELOW = {"RANK": "WORLD_SIZE", "LOCAL_RANK": "LOCAL_WORLD_SIZE", "SLURM_PROCID": "SLURM_NTASKS"}
# What a process must know that one of these started.
OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
OF_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
# Jobs in which SLURM starts one process, in which the user works.
INTERACTIVE = ("bash", "interactive")


def check_environment(variables: Mapping[str, str] = os.environ) -> None:
    """Raise UserError for the first variable that Lightning would stumble over, in some cases while it is imported."""
    for names, low, high in ((RANKS, 0, None), (COUNTS, 1, None), (PORTS, 1, 65535)):
        for name in names:
            if name in variables and not _is_within(variables[name], low, high):
                allowed = f", at least {low}" if high is None else f" from {low} to {high}"
                raise UserError(
                    f"environment variable {name}: got {variables[name]!r}, must be a whole number{allowed}"
                )
    for rank, count in BELOW.items():
        if rank in variables and count in variables and int(variables[rank]) >= int(variables[count]):
            raise UserError(
                f"environment variable {rank}: got {variables[rank]}, must be less than {count}, {variables[count]}"
            )
    if "TORCHELASTIC_RUN_ID" in variables:
        _require(OF_TORCHRUN, "TORCHELASTIC_RUN_ID", "torchrun", variables)
    elif "SLURM_NTASKS" in variables and variables.get("SLURM_JOB_NAME") not in INTERACTIVE:
        count = variables["SLURM_NTASKS"]
        if int(count) > 1 and "SLURM_NTASKS_PER_NODE" not in variables:
            raise UserError(
                f"environment variable SLURM_NTASKS: got {count} without SLURM_NTASKS_PER_NODE; "
                "start the job with --ntasks-per-node, the number of trainer.devices, in place of --ntasks"
            )
        _require(OF_SLURM, "SLURM_NTASKS", "srun", variables)


def _is_within(text: str, low: int, high: int | None) -> bool:
    # As int reads it, which takes no other digits here.
    plain = text.strip()
    return plain.isascii() and plain.isdecimal() and low <= int(plain) and (high is None or int(plain) <= high)


def _require(names: tuple[str, ...], given: str, starter: str, variables: Mapping[str, str]) -> None:
    for name in names:
        if name not in variables:
            raise UserError(f"environment variable {name}: not set, but {given} is; start the command with {starter}")
