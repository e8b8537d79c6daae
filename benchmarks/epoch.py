"""An epoch of training on MNIST: ``fit``, bare loops and peers, each set up as its experts would for speed.

    python benchmarks/epoch.py [--rounds 5] [--only fit autograd]

55,000 images, shuffled anew each epoch, 784-500-250-100-10, ReLU, mean cross-entropy, SGD, at batch 64 and 512. Every
contender starts from the same weights in a process of its own with the same number of threads, and they take turns. The
clock (``peers/peer.py``) leaves out evaluation, loading, imports and compilation; the first epoch is not counted: what
it took longer is shown as "first", and its test accuracy shows that each really trains, a difference of over two points
being marked. The learning rate changes no time; 0.01·√(batch/64) is one at which that accuracy differs by less than two
points between orders of the images (at 0.03 and batch 64 it did by three). ``fit`` runs through the command, progress
bar and logging on; its seconds are its own ``train_seconds``.
"""

import math

from peers import ENTRIES
from peers.peer import Task, Unavailable
from results import Benchmark
from timing import in_turn, ratio, spread
from workers import Worker, start_workers

BASELINE = "fit"
CONTENDERS = [name for name in ENTRIES if name != "trainer"]
QUICK = ["hand loop", "fit", "autograd", "JAX", "Keras on JAX", "scikit-learn"]


def race(benchmark: Benchmark, workers: list[Worker], task: Task) -> None:
    print(f"\nbatch {task.batch_size}", flush=True)
    first, ready = {}, {}
    for worker in workers:
        try:
            first[worker.name] = worker.prepare(task)
        except Unavailable as error:
            print(f"  {worker.name}: {error}", flush=True)
        else:
            ready[worker.name] = worker
    timers = {name: lambda worker=worker: worker.single_epoch(seed=0).seconds for name, worker in ready.items()}
    seconds = in_turn(timers, benchmark.options.rounds, benchmark.calm)
    reference = BASELINE if BASELINE in seconds else next(iter(seconds))
    for name, values in seconds.items():
        over, median = ratio(values, seconds[reference]), spread(values).median
        accuracy, before = first[name].accuracy, max(0.0, first[name].seconds - median)
        alike = "" if abs(accuracy - first[reference].accuracy) <= 0.02 else ", NOT ALIKE"
        benchmark.row(
            f"  {name:24} {median:6.2f} s, ratio {over}, first +{before:.1f} s, accuracy {accuracy:.4f}{alike}",
            batch_size=task.batch_size,
            name=name,
            seconds=values,
            ratio=over,
            first_seconds=first[name].seconds,
            accuracy=accuracy,
        )


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=5)
    benchmark.parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 512])
    benchmark.parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    benchmark.parser.add_argument("--training-images", type=int, default=55_000)
    options = benchmark.start()
    if options.quick:
        options.batch_sizes, options.training_images = [512], 5_000
    workers = start_workers(options.only or (QUICK if options.quick else CONTENDERS), options.threads)
    for batch_size in options.batch_sizes:
        lr = 0.01 * math.sqrt(batch_size / 64)
        race(benchmark, workers, Task(batch_size, lr=lr, training_images=options.training_images))
    for worker in workers:
        worker.close()
    benchmark.finish()


if __name__ == "__main__":
    run()
