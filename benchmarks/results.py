"""Options that all benchmarks share, and the JSON file that each leaves for ``figure.py``."""

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from calm import Calm
from machine import machine, stolen, versions

OUTPUT = Path(__file__).parent / "results"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")


class Benchmark:
    """One run of a benchmark: its options, its rows, its file.

    Args:
        description: the script's docstring.
        rounds: how often everything is timed, in turn.
    """

    def __init__(self, description: str, rounds: int) -> None:
        self.name = Path(sys.argv[0]).stem
        self.parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.parser.add_argument("--rounds", type=int, default=rounds, help=f"timings of each row (default {rounds})")
        self.parser.add_argument("--threads", type=int, default=2, help="for everybody (default 2)")
        self.parser.add_argument("--quick", action="store_true", help="small and once: shows that it works, no more")
        self.parser.add_argument("--output", type=Path, default=OUTPUT, help=f"folder of {self.name}.json")
        self.parser.add_argument("--patience", type=float, default=120, help="seconds to wait for calm moments, in all")
        self.rows: list[dict[str, Any]] = []

    def start(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Read the options and fix the number of threads, here and in every process started from here."""
        self.options = self.parser.parse_args(arguments)
        if self.options.quick:
            self.options.rounds, self.options.patience = 1, 0
        for variable in _THREAD_VARIABLES:
            os.environ[variable] = str(self.options.threads)
        torch.set_num_threads(self.options.threads)
        self.calm = Calm(self.options.patience)
        self._start, self._stolen = time.perf_counter(), stolen()
        print(machine(), flush=True)
        return self.options

    def row(self, line: str | None = None, **values: Any) -> None:
        """Keep a row, and print it as ``line``."""
        self.rows.append(values)
        if line is not None:
            print(line, flush=True)

    def finish(self) -> None:
        """Write the rows, with what a reader must know to judge them, and say how calm the machine was."""
        seconds = time.perf_counter() - self._start
        share = (stolen() - self._stolen) / seconds / (os.cpu_count() or 1)
        content = {
            "benchmark": self.name,
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": versions(),
            "options": {name: str(value) for name, value in vars(self.options).items() if name != "output"},
            "seconds": round(seconds, 1),
            "stolen_share": round(share, 4),
            "timings": self.calm.timings,
            "loud_timings": self.calm.loud,
            "rows": self.rows,
        }
        self.options.output.mkdir(parents=True, exist_ok=True)
        path = self.options.output / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        loud = f"{self.calm.loud} of {self.calm.timings} timings in loud moments (calm.py), {share:.1%} of time stolen"
        print(f"\n{seconds:.0f} s in all; {loud}; rows in {path}")
