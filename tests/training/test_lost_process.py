"""A process that is killed ends the whole run, soon and in words, and others go on from its last checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
# The last checkpoint before it is the one after the first epoch of 20.
SCRIPT = """
import os, signal
from mlp_lightning import cli
from mlp_lightning.training.module import MLPModule

hand_step = MLPModule.hand_step

def mortal_step(self, batch, step, **options):
    if step == 30 and self.global_rank == int(os.environ["KILLED_RANK"]):
        os.kill(os.getpid(), signal.SIGKILL)
    hand_step(self, batch, step, **options)

MLPModule.hand_step = mortal_step
cli.main()
"""
OPTIONS = (
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "20"),
    *("--trainer.enable_progress_bar", "false", "--model.hidden", "[8]", "--model.shard_optimizer", "true"),
)
SECONDS = 120


@pytest.fixture
def fit(tmp_path, cache_home):
    """``fit`` as a command of its own; ``killed`` is the rank that does not survive step 30."""
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)

    def run(launcher, n, *options, killed=-1):
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n))
        start = torchrun if launcher == "torchrun" else ()
        command = [*start, str(script), "fit", *OPTIONS, "--trainer.devices", str(n), *map(str, options)]
        known = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        environment = {**known, "KILLED_RANK": str(killed), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache_home)}
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            check=False,
            # Also for the survivors, who hold the pipes.
            timeout=SECONDS,
            env=environment,
        )

    return run


def last_checkpoint(folder: Path) -> Path:
    (path,) = folder.rglob("last.ckpt")
    return path


@pytest.mark.parametrize(("launcher", "killed"), [("ddp", 1), ("ddp", 0), ("torchrun", 1)])
def test_a_killed_process_ends_the_run_which_others_resume(fit, tmp_path, launcher, killed):
    ended = fit(launcher, 2, "--trainer.default_root_dir", tmp_path / "killed", killed=killed)
    assert ended.returncode != 0
    told = "exitcode  : -9" if launcher == "torchrun" else "error: another process of this training has ended"
    assert told in ended.stderr
    if launcher == "ddp":
        assert "Traceback" not in ended.stderr
    path = last_checkpoint(tmp_path / "killed")
    assert torch.load(path, weights_only=True)["global_step"] == 20
    n = 3 if killed else 1
    resumed = fit(launcher, n, "--trainer.default_root_dir", tmp_path / "resumed", "--ckpt_path", path)
    assert resumed.returncode == 0, resumed.stderr
    assert torch.load(last_checkpoint(tmp_path / "resumed"), weights_only=True)["global_step"] == 60
