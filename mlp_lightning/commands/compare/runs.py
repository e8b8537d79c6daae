"""Many fits, each in a process and a folder of its own; finished ones are not repeated."""

import glob
import itertools
import json
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlp_lightning.commands.compare.children import Children
from mlp_lightning.commands.compare.fingerprint import PACKAGE, data_digest, digest, program_digest
from mlp_lightning.commands.compare.run_options import GROUPS, all_options, read_config
from mlp_lightning.errors import UserError

# What the table says of every run, and what it says of those that have it.
NEEDED = ("test/accuracy", "test/loss", "seconds", "epochs")
OPTIONAL = ("val/accuracy", "test/errors")


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

    @cached_property
    def _read(self) -> Any:
        return read_config(self.config)

    @cached_property
    def options(self) -> dict[str, Any]:
        """What is set, by dotted names: by the config, configs that it names, and the settings."""
        return all_options(self._read, self.settings)

    @cached_property
    def fingerprint(self) -> str:
        """Digests of the options (but not of comments in a config), settings and seed; of the data; of the program."""
        named = [(name, read_config(Path(text))) for name, text in self.settings if name in GROUPS]
        text = repr((self._read, self.settings, self.seed, *named))
        return f"{digest(text)}-{data_digest(self.options)}-{program_digest()}"

    def folder(self, logs: Path) -> Path:
        """Where ``fit`` is told to put its logs."""
        return logs / f"{self._name}-{self.fingerprint}"

    @property
    def _name(self) -> str:
        plain = "".join(letter if letter.isalnum() or letter in "-_.=" else "_" for letter in self.experiment)
        return f"{plain}-seed{self.seed}"

    def finished(self, logs: Path) -> Path | None:
        """The folder of its tested fit; None before that."""
        return next(_finished(self.folder(logs)), None)

    def outdated(self, logs: Path) -> str | None:
        """What has changed since a finished run of the same options: the data, the program or both; None for none."""
        options, data, program = self.fingerprint.split("-")
        changed = []
        for folder in logs.glob(f"{glob.escape(self._name)}-{options}*"):
            digests = folder.name.removeprefix(f"{self._name}-").split("-")
            if folder == self.folder(logs) or next(_finished(folder), None) is None:
                continue
            # An older version kept digests of the options only.
            other_data = digests[1:2] != [data] and len(digests) == 3
            other_program = digests[2:] != [program]
            changed.append(" and ".join(["the data"] * other_data + ["the program"] * other_program))
        return min(changed, key=len, default=None)

    def start(self, logs: Path, threads: int, children: Children) -> None:
        """Fit; raises UserError with the fit's own last line if it fails, or if it leaves no test."""
        command = [sys.executable, "-m", "mlp_lightning", "fit", "--config", str(self.config)]
        command += ["--seed_everything", str(self.seed), "--trainer.enable_progress_bar", "false"]
        command += ["--trainer.default_root_dir", str(self.folder(logs))]
        command += [f"--{option}={value}" for option, value in self.settings]
        paths = [str(PACKAGE.parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        # No module is taken from the folder in which the command is given, a yaml.py say: nor by processes of the fit.
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONSAFEPATH": "1"}
        status, errors = children.run(command, {**environment, "PYTHONPATH": os.pathsep.join(paths)})
        where = f"{self.experiment}, seed {self.seed}"
        if status != 0:
            lines = errors.strip().splitlines() or [f"exit status {status}"]
            raise UserError(f"{where}: {lines[-1].removeprefix('error: ')}")
        if self.finished(logs) is None:
            raise UserError(f"{where}: the fit left no metrics.json with the results of a test in {self.folder(logs)}")


def _finished(folder: Path) -> Iterator[Path]:
    """The folders of tested fits in a run's folder, the newest first."""
    for path in sorted(folder.glob("lightning_logs/*/version_*/metrics.json"), reverse=True):
        # A damaged file is that of an unfinished run, also one that is nested too deeply to be read.
        with suppress(OSError, ValueError, RecursionError):
            metrics = json.loads(path.read_text())
            if isinstance(metrics, dict) and _can_be_told(metrics):
                yield path.parent


def _can_be_told(metrics: dict[str, Any]) -> bool:
    needed = [metrics.get(name) for name in NEEDED]
    return all(map(_is_number, [*needed, *(metrics[name] for name in OPTIONAL if name in metrics)]))


def _is_number(value: object) -> bool:
    """Whether it is a number that a float holds; JSON's whole numbers have any length."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**53)


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


def execute(runs: Sequence[Run], logs: Path, jobs: int) -> Generator[tuple[Run, Path, dict[str, Any]], None, None]:
    """Run what is not finished, ``jobs`` at a time; yields each run with its folder and metrics as it is done.

    A signal to end goes to the fits under way, which are waited for.

    Raises:
        UserError: a fit failed; those under way are finished first, and none is started after it.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    children = Children()
    with children.ended_by_signals(), ThreadPoolExecutor(jobs) as pool:
        waiting = {}
        for run in runs:
            if (folder := run.finished(logs)) is not None:
                yield run, folder, json.loads((folder / "metrics.json").read_text())
            else:
                waiting[pool.submit(run.start, logs, threads, children)] = run
        try:
            for future in as_completed(waiting):
                future.result()
                folder = waiting[future].finished(logs)
                assert folder is not None
                yield waiting[future], folder, json.loads((folder / "metrics.json").read_text())
        finally:
            pool.shutdown(cancel_futures=True)
