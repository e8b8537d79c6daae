"""A process that is lost ends the whole run, soon and in words, and others go on from its last checkpoint."""

import json
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
from mlp_lightning.cli import main as cli
from mlp_lightning.training.module import MLPModule

hand_step = MLPModule.hand_step

def mortal_step(self, batch, step, **options):
    first_time = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if step == 30 and first_time and self.global_rank == int(os.environ["LOST_RANK"]):
        if os.environ["LOST_BY"] == "error":
            raise ValueError("a fault of this rank alone")
        os.kill(os.getpid(), signal.SIGKILL)
    hand_step(self, batch, step, **options)

MLPModule.hand_step = mortal_step
cli.main()
"""
OPTIONS = (
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "20"),
    *("--trainer.enable_progress_bar", "false", "--model.hidden", "[8]", "--model.shard_optimizer", "true"),
    # Adam's steps make much of little where a gradient is rounding alone.
    *("--trainer.precision", "64-true", "--trainer.log_every_n_steps", "10"),
)
SECONDS = 120


@pytest.fixture
def fit(tmp_path, cache_home):
    """``fit`` as a command of its own; ``lost`` is the rank that does not survive step 30."""
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)

    def run(launcher, n, *options, lost=-1, by="signal", restarts=0):
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n))
        start = (*torchrun, "--max-restarts", str(restarts)) if launcher == "torchrun" else ()
        command = [*start, str(script), "fit", *OPTIONS, "--trainer.devices", str(n), *map(str, options)]
        known = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        environment = {**known, "LOST_RANK": str(lost), "LOST_BY": by, "OMP_NUM_THREADS": "1"}
        environment["XDG_CACHE_HOME"] = str(cache_home)
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


@pytest.fixture(scope="module")
def straight(tmp_path_factory, run_main):
    """What one process comes to that nothing happens to."""
    folder = tmp_path_factory.mktemp("straight")
    run_main("fit", *OPTIONS, "--trainer.devices", "1", "--trainer.default_root_dir", folder)
    return torch.load(last_checkpoint(folder), weights_only=True)


def assert_equal(path, straight):
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == straight["global_step"] == 60
    torch.testing.assert_close(checkpoint["state_dict"], straight["state_dict"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("launcher", "killed"), [("ddp", 1), ("ddp", 0), ("torchrun", 1)])
def test_a_killed_process_ends_the_run_which_others_resume(fit, straight, tmp_path, launcher, killed):
    ended = fit(launcher, 2, "--trainer.default_root_dir", tmp_path / "killed", lost=killed)
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
    assert_equal(last_checkpoint(tmp_path / "resumed"), straight)


@pytest.mark.parametrize("lost", [0, 1])
def test_torchrun_goes_on_by_itself(fit, straight, tmp_path, lost):
    options = ("--trainer.default_root_dir", tmp_path, "--ckpt_path", "auto")
    ended = fit("torchrun", 2, *options, lost=lost, restarts=1)
    assert ended.returncode == 0, ended.stderr
    assert "Signal 9 (SIGKILL)" in ended.stderr or "exitcode: -9" in ended.stderr
    assert "step 20" in ended.stdout
    assert_equal(last_checkpoint(tmp_path), straight)


@pytest.mark.parametrize("launcher", ["ddp", "torchrun"])
def test_a_failing_process_ends_the_run_with_its_own_error(fit, tmp_path, launcher):
    ended = fit(launcher, 2, "--trainer.default_root_dir", tmp_path, lost=1, by="error")
    assert ended.returncode != 0
    assert "ValueError: a fault of this rank alone" in ended.stderr


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_every_strategy_of_the_command_line_trains_and_tests(fit, straight, tmp_path, strategy):
    ended = fit("", 2, "--trainer.default_root_dir", tmp_path, "--trainer.strategy", strategy, "--test", "best")
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert_equal(last_checkpoint(tmp_path), straight)
    (path,) = tmp_path.rglob("metrics.json")
    assert {"val/accuracy", "test/accuracy", "steps"} <= json.loads(path.read_text()).keys()
