"""``fit`` of our MLPClassifier against scikit-learn's: the same layers, minibatches, epochs and Adam, no penalty.

    python benchmarks/estimator.py [--rounds 5]

Each task is fitted by both in turn, in one process, after a first fit of each; a ratio is scikit-learn's time to ours,
the median over rounds, with the least and the greatest. Both train every epoch (scikit-learn's ``tol`` ends none early)
from float32 samples. Set-up is timed apart: our first ``fit`` of 1,000 rows in a process of its own, after the imports,
with what it waits for the compiler.
"""

import subprocess
import sys
import warnings
from typing import NamedTuple

import numpy as np
import sklearn.neural_network
from numpy.typing import NDArray
from results import Benchmark
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from timing import in_turn, ratio, seconds_a_call, spread

from mlp_lightning.data import load_dataset
from mlp_lightning.sklearn import MLPClassifier

FIRST_FIT = """
import time
import numpy as np
start = time.perf_counter()
from mlp_lightning.sklearn import MLPClassifier
imported = time.perf_counter()
x = np.random.default_rng(0).random((1000, 20), dtype=np.float32)
MLPClassifier().fit(x, x[:, 0] > 0.5)
print(imported - start, time.perf_counter() - imported)
"""


class Task(NamedTuple):
    """Samples, and how they are learned."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    hidden: tuple[int, ...]
    batch_size: int
    epochs: int


def tasks(quick: bool) -> dict[str, Task]:
    small_x, small_y = load_digits(return_X_y=True)
    small_x = (small_x / 16).astype(np.float32)
    table_x, table_y = make_classification(20_000, 30, n_informative=12, n_classes=4, random_state=0)
    table = Task(table_x.astype(np.float32), table_y, (100,), 200, 10)
    rows_1000 = Task(table.x[:1000], table_y[:1000], (100,), 64, 20)
    if quick:
        return {"1,000 rows": rows_1000._replace(epochs=2)}
    digits = load_dataset("mnist", None)
    return {
        "digits": Task(small_x, small_y, (100,), 64, 20),
        "MNIST, 60,000 images": Task(digits.train_x.numpy(), digits.train_y.numpy(), (500, 250, 100), 64, 1),
        "table of 20,000 rows": table,
        "1,000 rows": rows_1000,
    }


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=5)
    options = benchmark.start()
    warnings.simplefilter("ignore", ConvergenceWarning)
    for name, task in tasks(options.quick).items():
        common = {"hidden_layer_sizes": task.hidden, "batch_size": task.batch_size, "random_state": 0, "alpha": 0.0}
        theirs = sklearn.neural_network.MLPClassifier(max_iter=task.epochs, tol=0.0, n_iter_no_change=10**6, **common)
        ours = MLPClassifier(max_iter=task.epochs, precision="32-true", **common)
        timers = {
            kind: lambda estimator=estimator, task=task: seconds_a_call(lambda: estimator.fit(task.x, task.y), 0.1)
            for kind, estimator in (("ours", ours), ("scikit-learn's", theirs))
        }
        in_turn(timers, 1)  # memory, threads and the compiler
        seconds = in_turn(timers, options.rounds, benchmark.calm)
        over = ratio(seconds["scikit-learn's"], seconds["ours"])
        scores = {"ours": ours.score(task.x, task.y), "scikit-learn's": theirs.score(task.x, task.y)}
        print(f"\n{name}: hidden {list(task.hidden)}, batch {task.batch_size}, {task.epochs} epochs")
        for kind, found in seconds.items():
            benchmark.row(
                f"  {kind:15} {spread(found).median * 1e3:9.1f} ms, accuracy {scores[kind]:.3f}",
                task=name,
                name=kind,
                seconds=found,
                accuracy=scores[kind],
            )
        benchmark.row(f"  ratio {over}", task=name, name="ratio", ratio=over)
    pairs = []
    for _ in range(options.rounds):
        command = [sys.executable, "-c", FIRST_FIT]
        found = benchmark.calm.time(lambda: subprocess.run(command, capture_output=True, text=True, check=True))  # noqa: B023
        pairs.append([float(seconds) for seconds in found.stdout.split()])
    imports, fits = (spread(part) for part in zip(*pairs, strict=True))
    benchmark.row(
        f"\nfirst fit of 1,000 rows in a new process: {fits} s after imports of {imports} s",
        name="first fit",
        seconds=[fit for _, fit in pairs],
    )
    benchmark.finish()


if __name__ == "__main__":
    run()
