"""Real signals to the command line, in processes of their own."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlp_lightning.files.checkpoint_file import read_checkpoint

ROOT = Path(__file__).parents[2]
FIT = [
    *("fit", "--config", "adam.yaml", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "30", "--trainer.limit_val_batches", "1"),
    *("--trainer.log_every_n_steps", "7", "--model.hidden", "[8]", "--test", "never"),
    # By the clock nobody knows where a group ends; so one does at step 42.
    *("--trainer.steps_per_execution", "6"),
]
# The command line, in which the first process of a run gets a signal, as from outside, in the middle of step 40.
SIGNALLED = """
import os
from mlp_lightning.cli.start import main
from mlp_lightning.training.module import MLPModule
hand_step, hand_steps = MLPModule.hand_step, MLPModule.hand_steps
def interrupt(step):
    if step == 40 and os.environ.get("LOCAL_RANK", "0") == "0":
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
def interrupted(self, batch, step, **options):
    interrupt(step)
    hand_step(self, batch, step, **options)
def interrupted_among_many(self, batches, step):
    for count in hand_steps(self, batches, step):
        for made in range(step, step + count):
            interrupt(made)
        step += count
        yield count
MLPModule.hand_step, MLPModule.hand_steps = interrupted, interrupted_among_many
main()
"""


@pytest.fixture
def run(tmp_path, cache_home, command_line_environment):
    """The command line in a folder of its own; ``number`` is the signal it gets."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache_home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    driver = tmp_path / "signalled.py"
    driver.write_text(SIGNALLED)
    folder = tmp_path / "run ö"
    folder.mkdir()

    def start(arguments, number=None):
        program = ROOT / "train.py" if number is None else driver
        done = subprocess.run(
            [sys.executable, program, *arguments],
            cwd=folder,
            env=environment if number is None else {**environment, "SIGNAL": str(int(number))},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr, folder / "lightning_logs" / "adam"

    return start


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("devices", [1, 2])
def test_the_line_that_is_printed_goes_on_to_the_same_end(run, number, status, devices):
    fit = [*FIT, "--trainer.devices", str(devices)]
    code, output, runs = run(fit)
    assert code == 0, output
    code, output, _ = run(fit, number)
    assert code == status, output
    assert "Traceback" not in output
    (line,) = re.findall(r"^stopped at step 42; to resume: python train\.py (.*)$", output, re.MULTILINE)
    code, output, _ = run(shlex.split(line))
    assert code == 0, output
    straight, resumed = (read_checkpoint(runs / f"version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    torch.testing.assert_close(resumed["state_dict"], straight["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(resumed["optimizer_states"], straight["optimizer_states"], rtol=0, atol=0)
    assert resumed["history"] == straight["history"]
