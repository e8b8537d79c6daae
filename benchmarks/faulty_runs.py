"""The run that ``faults.py`` and ``kills.py`` do harm to: how it starts, what it comes to, and how two of it differ."""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from moments import Moment, watch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlp_lightning.cli import main as cli
from mlp_lightning.errors import UserError
from mlp_lightning.training.runs.newest import newest_checkpoint

CONFIG = "adam.yaml"
EPOCHS, STEPS = 4, 40
FIT = [
    *("fit", "--config", CONFIG, "--ckpt_path", "auto", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--trainer.max_epochs", str(EPOCHS)),
    *("--trainer.limit_train_batches", str(STEPS), "--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1", "--trainer.log_every_n_steps", "7"),
    *("--model.hidden", "[128]", "--model.dropout", "0.1", "--model.averaging", "ema"),
]
# What a clock says differs from run to run.
TIMED = ("seconds", "train_seconds", "images_per_second")


class Row(NamedTuple):
    """One kind of fault: how often it was tried, how often it went well, and what went wrong first."""

    fault: str
    tried: int
    passed: int
    detail: str


class Running(NamedTuple):
    """A run that was started: its process, and the pipe by which it tells that the moment has come."""

    process: int
    pipe: int

    def reaches_its_moment(self) -> bool:
        """Wait until it says so; false if it ended without."""
        return os.read(self.pipe, 1) != b""

    def kill(self) -> None:
        """Kill it, and the processes it has started."""
        os.killpg(self.process, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status, negative for a signal."""
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def printed_by(folder: Path) -> Path:
    """Where the runs in ``folder`` print: not on the disk that gets full."""
    return folder.with_name(f"{folder.name}.txt")


def start(
    folder: Path, devices: int = 1, moment: Moment | None = None, before: Callable[[], None] = lambda: None
) -> Running:
    """Begin the run in ``folder``, in a group of processes of its own.

    Args:
        folder: Its working folder.
        devices: How many processes train.
        moment: What it shall tell of.
        before: To be called in the child first.
    """
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        # Both set it, since either may be the first to need it.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        return Running(child, reading)
    os.setpgid(0, 0)
    os.close(reading)
    os.chdir(folder)
    output = os.open(printed_by(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    before()
    if devices > 1:
        # The second process is started by the command line of the first, so that it must be a program of its own.
        os.set_inheritable(writing, True)
        os.execv(sys.executable, [sys.executable, __file__, str(devices), str(writing), json.dumps(moment)])
    # This process has imported all that takes long.
    _run_and_exit(devices, writing, moment)
    raise AssertionError


def _run_and_exit(devices: int, pipe: int, moment: Moment | None) -> None:
    try:
        if moment is not None:
            watch(Moment(*moment), lambda: os.write(pipe, b"!"))
        cli.main([*FIT, "--trainer.devices", str(devices)])
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 70
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every scalar, in the order in which TensorBoard reads them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def outcome(folder: Path) -> dict[str, Any]:
    """What a run that came to its end leaves, without what a clock says."""
    runs = folder / "lightning_logs" / Path(CONFIG).stem
    path, checkpoint, _ = newest_checkpoint(runs)
    if path is None:
        raise UserError(f"{runs} holds no whole checkpoint")
    run = path.parent.parent
    if left := list(run.rglob("*.tmp")):
        raise UserError(f"{left[0].name} was left")
    metrics = json.loads((run / "metrics.json").read_text())
    kept = {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "history", "results", "counts")}
    metrics = {name: value for name, value in metrics.items() if name not in TIMED}
    return {**kept, "metrics": metrics, "curves": curves(run)}


def difference(folder: Path, straight: dict[str, Any]) -> str:
    """Where the outcome is another than the straight run's; empty where it is the same to the last bit."""
    try:
        found = outcome(folder)
    except (UserError, OSError, ValueError) as error:
        return str(error)
    return next(iter(_differing("", found, straight)), "")


def _differing(name: str, found: Any, expected: Any) -> Iterator[str]:
    """The names of the values that are not the same, to the last bit."""
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        for key, value in expected.items():
            yield from _differing(f"{name} {key}", found[key], value)
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(found) == len(expected):
        for key, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from _differing(f"{name} {key}", one, other)
    elif isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        if found.dtype != expected.dtype or not torch.equal(found, expected):
            yield f"{name} differs"
    elif found != expected:
        yield f"{name}: {found!r:.80}, not {expected!r:.80}"


def finish(folder: Path, straight: dict[str, Any], devices: int = 1) -> str:
    """Run to the end, and compare."""
    status = start(folder, devices).wait()
    if status != 0:
        return f"exit status {status}: {printed_by(folder).read_text().splitlines()[-1:]}"
    return difference(folder, straight)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _run_and_exit(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
