"""Kill, damage and starve a real run, and compare what becomes of it with the run that was left alone.

    python benchmarks/faults.py [--kills 30] [--seed 0]

Every run is the command ``fit --ckpt_path auto`` in a process of its own. It is killed (SIGKILL) at random moments,
some runs again after they were started again, and then left to its end: weights, optimizer state, history and metrics
must equal the straight run's to the last bit. Bytes of its checkpoint are flipped and cut: every such file must be
refused. A file system that takes no more must end in one line, and leave what a run with more room goes on from. Prints
a table; exit status 1 if anything failed.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mlp_lightning import cli
from mlp_lightning.checkpoint_file import read_checkpoint
from mlp_lightning.errors import UserError
from mlp_lightning.training.newest import newest_checkpoint

CONFIG = "adam.yaml"
FIT = [
    *("fit", "--config", CONFIG, "--ckpt_path", "auto", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "6", "--trainer.limit_train_batches", "40"),
    *("--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1", "--trainer.log_every_n_steps", "7"),
    *("--model.hidden", "[128]", "--model.dropout", "0.1", "--model.averaging", "ema"),
]
# What a clock says differs from run to run.
TIMED = ("seconds", "train_seconds", "images_per_second")
FLIPS, CUTS = 300, 60


class Row(NamedTuple):
    """One kind of fault: how often it was tried, how often it went well, and what went wrong first."""

    fault: str
    tried: int
    passed: int
    detail: str


def printed_by(folder: Path) -> Path:
    """Where the runs in ``folder`` print: not on the disk that gets full."""
    return folder.with_name(f"{folder.name}.txt")


def start(folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """Begin the run in a child of this process, which has imported all that takes long; returns its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        os.chdir(folder)
        output = os.open(printed_by(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        before()
        cli.main(FIT)
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 70
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)


def wait(child: int) -> int:
    """The exit status of a run, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(folder: Path, seconds: float) -> bool:
    """Begin the run and kill it after so long; whether it still ran then."""
    child = start(folder)
    time.sleep(seconds)
    os.kill(child, 9)
    return wait(child) == -9


def outcome(folder: Path) -> dict[str, Any]:
    """What a run that came to its end leaves, without what a clock says."""
    runs = folder / "lightning_logs" / Path(CONFIG).stem
    path, checkpoint, _ = newest_checkpoint(runs)
    if path is None:
        raise UserError(f"{runs} holds no whole checkpoint")
    newest = max(runs.glob("version_*/metrics.json"), key=lambda found: int(found.parent.name.split("_")[1]))
    metrics = json.loads(newest.read_text())
    kept = {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "history", "results", "counts")}
    return {**kept, "metrics": {name: value for name, value in metrics.items() if name not in TIMED}}


def difference(folder: Path, straight: dict[str, Any]) -> str:
    """Where the outcome is another than the straight run's; empty where it is the same to the last bit."""
    try:
        found = outcome(folder)
    except (UserError, OSError, ValueError) as error:
        return str(error)
    return next(iter(differing("", found, straight)), "")


def differing(name: str, found: Any, expected: Any) -> Iterator[str]:
    """The names of the values that are not the same, to the last bit."""
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        for key, value in expected.items():
            yield from differing(f"{name} {key}", found[key], value)
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(found) == len(expected):
        for key, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differing(f"{name} {key}", one, other)
    elif isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        if found.dtype != expected.dtype or not torch.equal(found, expected):
            yield f"{name} differs"
    elif found != expected:
        yield f"{name}: {found!r:.80}, not {expected!r:.80}"


def finish(folder: Path, straight: dict[str, Any]) -> str:
    """Run to the end, and compare."""
    status = wait(start(folder))
    if status != 0:
        return f"exit status {status}: {(folder / 'output.txt').read_text().splitlines()[-1:]}"
    return difference(folder, straight)


def kill_at_random(root: Path, straight: dict[str, Any], seconds: float, kills: int, random_: random.Random) -> Row:
    """Kill runs, a third of them again, and let them end."""
    done, early, runs, passed, first = 0, 0, 0, 0, ""
    while done < kills:
        folder = root / f"kill {runs}"
        folder.mkdir()
        runs += 1
        while True:
            if killed(folder, random_.uniform(0, 0.95 * seconds)):
                done += 1
            else:
                early += 1
            if done >= kills or random_.random() > 1 / 3:
                break
        problem = finish(folder, straight)
        passed += not problem
        first = first or (problem and f"{folder.name}: {problem}")
    return Row(f"{done} kills in {runs} runs ({early} ended first)", runs, passed, first)


def damage(root: Path, checkpoint: Path, change: Callable[[bytearray], None], tries: int, name: str) -> Row:
    """Change a checkpoint's bytes and read it."""
    whole, path = checkpoint.read_bytes(), root / "damaged" / "x.ckpt"
    path.parent.mkdir(exist_ok=True)
    passed, first = 0, ""
    for _ in range(tries):
        damaged = bytearray(whole)
        change(damaged)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
            first = first or f"{len(damaged)} of {len(whole)} bytes were read"
        except UserError:
            passed += 1
    return Row(name, tries, passed, first)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of ``size`` bytes at ``folder``; false where none may be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def grow(folder: Path) -> None:
    """Give ``small_disk`` more room."""
    subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)


def starve(folder: Path, straight: dict[str, Any], before: Callable[[], None], more: Callable[[], None]) -> str:
    """Run where there is no room, then where there is."""
    status = wait(start(folder, before))
    lines = printed_by(folder).read_text().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if status != 2 or len(errors) != 1 or any("Traceback" in line for line in lines):
        return f"exit status {status}, {errors}, {lines[-3:]}"
    for path in folder.rglob("*.ckpt"):
        read_checkpoint(path)
    if left := list(folder.rglob("*.tmp")):
        return f"{left[0].name} was left"
    more()
    return finish(folder, straight)


def starvations(root: Path, straight: dict[str, Any], checkpoint: Path) -> list[Row]:
    """No room on the file system, and none in one file."""
    size = checkpoint.stat().st_size
    limited = root / "limit"
    limited.mkdir()

    def limit() -> None:
        # Python ignores the signal that comes with it, so that the write fails.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    problem = starve(limited, straight, limit, lambda: None)
    rows = [Row("file-size limit below a checkpoint", 1, int(not problem), problem)]
    for factor in (0.02, 0.2, 1.5, 2.5):
        disk = root / f"disk {factor}"
        disk.mkdir()
        with small_disk(disk, int(factor * size)) as mounted:
            if not mounted:
                return [*rows, Row("full disk: skipped, no file system may be mounted here", 0, 0, "")]
            problem = starve(disk, straight, lambda: None, partial(grow, disk))
        rows.append(Row(f"full disk, room for {factor} checkpoints", 1, int(not problem), problem))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="how many (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and bytes (default 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()
    random_ = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        root = Path(name)
        straight_folder = root / "straight"
        straight_folder.mkdir()
        # The first run also unpacks the data.
        for _ in range(2):
            begun = time.perf_counter()
            status = wait(start(straight_folder))
            seconds = time.perf_counter() - begun
            if status != 0:
                sys.exit(printed_by(straight_folder).read_text())
            straight = outcome(straight_folder)
            (straight_folder / "lightning_logs").rename(root / f"straight {begun}")
        checkpoint = root / f"straight {begun}" / Path(CONFIG).stem / "version_0" / "checkpoints" / "last.ckpt"
        print(f"a run takes {seconds:.1f} s; {options.kills} kills, seed {options.seed}", flush=True)

        def flip(data: bytearray) -> None:
            data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)

        def cut(data: bytearray) -> None:
            del data[random_.choice([random_.randrange(len(data)), len(data) - random_.randrange(1, 200)]) :]

        rows = [
            damage(root, checkpoint, flip, FLIPS, "a bit flipped"),
            damage(root, checkpoint, cut, CUTS, "the end cut off"),
            damage(root, checkpoint, lambda data: data.extend(b"\0"), 1, "a byte added"),
            *starvations(root, straight, checkpoint),
            kill_at_random(root, straight, seconds, options.kills, random_),
        ]
    width = max(len(row.fault) for row in rows)
    print(f"\n{'fault':{width}}  passed")
    for row in rows:
        print(f"{row.fault:{width}}  {row.passed} of {row.tried}{'  ' + row.detail[:300] if row.detail else ''}")
    sys.exit(any(row.passed < row.tried for row in rows))


if __name__ == "__main__":
    main()
