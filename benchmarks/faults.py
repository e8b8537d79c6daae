"""Kill, damage and starve a real run, and compare what becomes of it with the run that was left alone.

    python benchmarks/faults.py [--kills 30] [--seed 0]

Every run is the command ``fit --ckpt_path auto`` in a process of its own. It is killed (SIGKILL) at drawn moments, some
runs again after they were started again, one in eight as a run of two processes, and then left to its end: weights,
optimizer state, history, metrics and the curves in TensorBoard must equal the straight run's to the last bit, each step
once. Bytes of its checkpoint are flipped and cut: every such file must be refused. A file system that takes no more
must end in one line, and leave what a run with more room goes on from. Prints a table; exit status 1 if anything
failed.
"""

import argparse
import gc
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from faulty_runs import Row, finish, printed_by, start
from kills import kill_runs, run_straight

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import read_checkpoint

FLIPS, CUTS = 300, 60


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
    status = start(folder, before=before).wait()
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
        # Two processes are worth their time where there are many kills.
        straight = {devices: run_straight(root, devices) for devices in ((1, 2) if options.kills >= 5 else (1,))}
        checkpoint = straight[1].checkpoint
        print(f"{options.kills} kills, seed {options.seed}", flush=True)

        def flip(data: bytearray) -> None:
            data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)

        def cut(data: bytearray) -> None:
            del data[random_.choice([random_.randrange(len(data)), len(data) - random_.randrange(1, 200)]) :]

        rows = [
            damage(root, checkpoint, flip, FLIPS, "a bit flipped"),
            damage(root, checkpoint, cut, CUTS, "the end cut off"),
            damage(root, checkpoint, lambda data: data.extend(b"\0"), 1, "a byte added"),
            *starvations(root, straight[1].outcome, checkpoint),
            *kill_runs(root, straight, options.kills, random_),
        ]
    width = max(len(row.fault) for row in rows)
    print(f"\n{'fault':{width}}  passed")
    for row in rows:
        print(f"{row.fault:{width}}  {row.passed} of {row.tried}{'  ' + row.detail[:300] if row.detail else ''}")
    sys.exit(any(row.passed < row.tried for row in rows))


if __name__ == "__main__":
    main()
