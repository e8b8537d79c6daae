"""Seconds of training to 97, 98 and 98.5 % test accuracy: the project's trainer and its peers.

    python benchmarks/accuracy_time.py [--config configs/adam.yaml] [--rounds 3]

A race over a fixed distance: the test accuracy after each epoch is its finishing line, and chooses no setting.
(Settings are to be chosen on held-out images.) All follow the recipe of one config: network, first weights, Adam,
cosine schedule, batch size; scikit-learn, which has no schedule, gets a constant rate within each epoch. A round is a
seed: all train from that seed's weights, each with an order of its own, in turn epoch by epoch, until the last target.
The clock (``peers/peer.py``) adds up epochs, from before the shuffling to the last update; evaluation, loading, imports
and compilation lie outside, the latter in an uncounted epoch before. Where the seeds disagree whether a target is
reached, the count is given.
"""

from collections.abc import Sequence
from pathlib import Path

from calm import Calm
from peers.peer import Task, Unavailable
from results import Benchmark
from timing import spread
from workers import Epoch, Worker, start_workers

CONFIGS = Path(__file__).parent.parent / "configs"
CONTENDERS = [
    "trainer",
    "autograd",
    "autograd, compiled",
    "JAX",
    "Keras on JAX",
    "scikit-learn",
    "Lightning, tensors",
]
QUICK = ["trainer", "autograd"]
TARGETS = [0.97, 0.98, 0.985]


def default_config() -> Path:
    fast = CONFIGS / "fast.yaml"
    return fast if fast.exists() else CONFIGS / "adam.yaml"


def race(workers: Sequence[Worker], seed: int, target: float, calm: Calm) -> dict[str, list[Epoch]]:
    """Train all from a seed, an epoch at a time in turn, each until it reaches the target or its schedule's end."""
    epochs: dict[str, list[Epoch]] = {worker.name: [] for worker in workers}
    for worker in workers:
        worker.start(seed)
    running = list(workers)
    while running:
        for worker in list(running):
            epoch = calm.time(worker.epoch, repeatable=False)
            if epoch is not None:
                epochs[worker.name].append(epoch)
                if epoch.accuracy < target:
                    continue
                worker.stop()
            running.remove(worker)
    return epochs


def seconds_to(target: float, epochs: Sequence[Epoch]) -> float | None:
    """Training seconds until the first epoch that ends at the target; None if none did."""
    seconds = 0.0
    for epoch in epochs:
        seconds += epoch.seconds
        if epoch.accuracy >= target:
            return seconds
    return None


def in_words(times: list[float | None]) -> str:
    reached = [seconds for seconds in times if seconds is not None]
    if not reached:
        return "not reached"
    count = "" if len(reached) == len(times) else f", {len(reached)} of {len(times)}"
    return f"{spread(reached)}{count}"


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=3)
    benchmark.parser.add_argument("--config", type=Path, default=default_config(), help="fast.yaml or else adam.yaml")
    benchmark.parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    options = benchmark.start()
    targets = [0.9, 0.95] if options.quick else TARGETS
    task = Task.from_config(options.config)
    recipe = f"batch {task.batch_size}, Adam {task.lr}, {task.epochs} epochs, {task.schedule} schedule"
    print(f"{options.config.name}: {recipe}")
    if task.unshared:
        print(f"followed by the trainer alone: {', '.join(task.unshared)}")

    workers: list[Worker] = []
    for worker in start_workers(options.only or (QUICK if options.quick else CONTENDERS), options.threads):
        try:
            worker.prepare(task)
        except Unavailable as error:
            print(f"{worker.name}: {error}", flush=True)
        else:
            workers.append(worker)
    races = [race(workers, seed, targets[-1], benchmark.calm) for seed in range(options.rounds)]
    for worker in workers:
        worker.close()

    first = workers[0].name
    for target in targets:
        print(f"\nseconds to {target:.1%}, median (least to greatest) over {options.rounds} seeds; ratio to {first}")
        baseline = [seconds_to(target, epochs[first]) for epochs in races]
        for name in races[0]:
            times = [seconds_to(target, epochs[name]) for epochs in races]
            ratios = [a / b if a is not None and b is not None else None for a, b in zip(times, baseline, strict=True)]
            benchmark.row(
                f"  {name:24} {in_words(times):32} ratio {in_words(ratios)}",
                target=target,
                name=name,
                seconds=times,
                ratios=ratios,
                epochs=[epochs[name] for epochs in races],
            )
    benchmark.finish()


if __name__ == "__main__":
    run()
