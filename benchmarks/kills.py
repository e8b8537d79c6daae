"""Kill a real run (SIGKILL) at drawn moments, let it go on, and compare what becomes of it with the run left alone.

The moments are the start of the process, a step, a validation, the writing of a checkpoint and the end of the
training, one after another, each at a step that is yet to come, with a drawn delay that is shorter than what is left of
the run: so each kill meets a run that lives.
"""

import itertools
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from faulty_runs import CONFIG, EPOCHS, STEPS, Row, finish, outcome, printed_by, start
from moments import Moment

from mlp_lightning.training.runs.newest import newest_checkpoint

KINDS = ("start", "step", "validation", "checkpoint", "finish")
# Seconds at most from a moment to the kill; a checkpoint takes some 10 ms.
DELAY = {"step": 0.1, "validation": 0.1, "checkpoint": 0.05, "finish": 0.2}
# One run in so many is one of two processes.
TWO_EVERY = 8


class Straight(NamedTuple):
    """The run that was left alone, and the seconds before its first step."""

    outcome: dict[str, Any]
    checkpoint: Path
    before_steps: float


def run_straight(root: Path, devices: int) -> Straight:
    """Run it in a folder of its own; raises AssertionError with what it printed if it fails."""
    folder = root / f"straight {devices}"
    folder.mkdir()
    begun = time.perf_counter()
    running = start(folder, devices, Moment("step"))
    running.reaches_its_moment()
    before_steps = time.perf_counter() - begun
    assert running.wait() == 0, printed_by(folder).read_text()
    checkpoint = folder / "lightning_logs" / Path(CONFIG).stem / "version_0" / "checkpoints" / "last.ckpt"
    return Straight(outcome(folder), checkpoint, before_steps)


def kill_runs(root: Path, straight: dict[int, Straight], kills: int, random_: random.Random) -> list[Row]:
    """Kill runs, a third of them again, and let them end.

    Args:
        root: Where their folders are made.
        straight: By the number of processes; without an entry for 2, all runs are of one.
        kills: How many.
        random_: What moments and delays are drawn from.

    Returns:
        A row for each number of processes, that counts kills; one has passed if its run has ended like the straight.
    """
    kinds, missed = itertools.cycle(KINDS), 0
    tried, passed, first = Counter[int](), Counter[int](), dict[int, str]()
    for number in itertools.count():
        if tried.total() >= kills:
            break
        devices = 2 if 2 in straight and number % TWO_EVERY == TWO_EVERY - 1 else 1
        folder = root / f"kill {number}"
        folder.mkdir()
        done = 0
        while True:
            landed = _kill(folder, next(kinds), straight[devices].before_steps, devices, random_)
            done, missed = done + landed, missed + (not landed)
            if tried.total() + done >= kills or random_.random() > 1 / 3:
                break
        problem = finish(folder, straight[devices].outcome, devices)
        print(f"{folder.name}, processes: {devices}, kills: {done}, {problem or 'as the straight run'}", flush=True)
        tried[devices] += done
        passed[devices] += 0 if problem else done
        if problem:
            first.setdefault(devices, f"{folder.name}: {problem}")
    rows = []
    for devices, name in ((1, "kill -9"), (2, "kill -9, two processes")):
        if tried[devices]:
            rows.append(Row(name, tried[devices], passed[devices], first.get(devices, "")))
    return [*rows, Row("moments at which a run had ended", missed, 0, "")] if missed else rows


def _kill(folder: Path, kind: str, before_steps: float, devices: int, random_: random.Random) -> bool:
    """Begin the run and kill it at a moment of that kind; whether it still ran then."""
    path, checkpoint, _ = newest_checkpoint(folder / "lightning_logs" / Path(CONFIG).stem)
    done = 0 if path is None else checkpoint["global_step"]
    steps = range(done, EPOCHS * STEPS)
    if kind in ("step", "validation", "checkpoint") and not steps:
        kind = "finish"
    step = 0
    if kind == "step":
        step = random_.choice(steps)
    elif kind in ("validation", "checkpoint"):
        # At the end of one of the epochs to come.
        step = random_.randrange(done // STEPS + 1, EPOCHS + 1) * STEPS
    running = start(folder, devices, Moment(kind, step))  # type: ignore[arg-type]
    if running.reaches_its_moment():
        time.sleep(random_.uniform(0, before_steps if kind == "start" else DELAY[kind]))
        running.kill()
    return running.wait() == -9
