"""Many fits, each in a process and a folder of its own; finished ones are not repeated."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlp_lightning.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Run:
    """One fit: a config, what is set differently, and a seed."""

    config: Path
    settings: tuple[tuple[str, str], ...]
    seed: int

    @property
    def experiment(self) -> str:
        """What the seeds of one experiment share: the config's name and the settings."""
        return " ".join([self.config.stem, *(f"{option}={value}" for option, value in self.settings)])

    @property
    def fingerprint(self) -> str:
        """Changes with the config's options, the settings and the seed, but not with a config's comments."""
        try:
            options = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except yaml.YAMLError:
            # The fit itself says what is wrong with it.
            options = None
        text = repr((options, self.settings, self.seed))
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def folder(self, logs: Path) -> Path:
        """Where ``fit`` is told to put its logs."""
        plain = "".join(letter if letter.isalnum() or letter in "-_.=" else "_" for letter in self.experiment)
        return logs / f"{plain}-seed{self.seed}-{self.fingerprint}"

    def finished(self, logs: Path) -> Path | None:
        """The folder of its tested fit; None before that."""
        for metrics in sorted(self.folder(logs).glob("lightning_logs/*/version_*/metrics.json"), reverse=True):
            if "test/accuracy" in json.loads(metrics.read_text()):
                return metrics.parent
        return None

    def start(self, logs: Path, threads: int) -> None:
        """Fit; raises UserError with the fit's own last line if it fails."""
        command = [sys.executable, "-m", "mlp_lightning", "fit", "--config", str(self.config)]
        command += ["--seed_everything", str(self.seed), "--trainer.enable_progress_bar", "false"]
        command += ["--trainer.default_root_dir", str(self.folder(logs))]
        command += [f"--{option}={value}" for option, value in self.settings]
        path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": path}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
            raise UserError(f"{self.experiment}, seed {self.seed}: {lines[-1].removeprefix('error: ')}")


def plan(configs: Sequence[Path], grid: Sequence[str], seeds: int) -> list[Run]:
    """All runs: every config with every combination of the grid's values, for seeds 0 to ``seeds`` − 1.

    Args:
        configs: Paths of configs.
        grid: Settings ``option=value,value,…``; a value with brackets keeps its commas.
        seeds: How many seeds, at least 1.

    Raises:
        UserError: a setting that is not of that form or given twice, or no seed.
    """
    if seeds < 1:
        raise UserError(f"--seeds: got {seeds}, must be at least 1")
    axes: dict[str, list[tuple[str, str]]] = {}
    for setting in grid:
        option, equals, values = setting.partition("=")
        if not (option and equals and all(_split(values))):
            raise UserError(f"--grid: got {setting}, must be option=value,value,… such as model.lr=0.1,0.01")
        if values.count("[") != values.count("]"):
            raise UserError(f"--grid: got {setting}, whose brackets do not match")
        if option in axes:
            raise UserError(f"--grid: got {option} twice, must be one setting with all its values")
        axes[option] = [(option, value) for value in _split(values)]
    return [
        Run(config, settings, seed)
        for config in configs
        for settings in itertools.product(*axes.values())
        for seed in range(seeds)
    ]


def _split(values: str) -> list[str]:
    parts, depth = [""], 0
    for letter in values:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def execute(runs: Sequence[Run], logs: Path, jobs: int) -> Iterator[tuple[Run, Path, dict[str, Any]]]:
    """Run what is not finished, ``jobs`` at a time; yields each run with its folder and metrics as it is done.

    Raises:
        UserError: a fit failed; those under way are finished first, and none is started after it.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {}
        for run in runs:
            if (folder := run.finished(logs)) is not None:
                yield run, folder, json.loads((folder / "metrics.json").read_text())
            else:
                waiting[pool.submit(run.start, logs, threads)] = run
        try:
            for future in as_completed(waiting):
                future.result()
                folder = waiting[future].finished(logs)
                assert folder is not None
                yield waiting[future], folder, json.loads((folder / "metrics.json").read_text())
        finally:
            pool.shutdown(cancel_futures=True)
