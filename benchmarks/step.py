"""A training step against the floor of its matrix products, over batch sizes and networks, in fp32 unless said.

    python benchmarks/step.py [--rounds 5]

The floor is the same matrix products alone: forward, dW and dA of every layer but the first, into memory that is kept.
All steps of a network and batch size take turns on the same minibatch of MNIST in one process, as many in a row as
``fit`` makes of one group; a ratio is the median over rounds, with the least and the greatest.
"""

from collections.abc import Callable

from networks import LARGE, NOTEBOOK, SMALL, digits, label
from results import Benchmark
from steps import FLOOR, STEPS
from timing import in_turn, ratio, seconds_a_call, spread
from torch import Tensor

from mlp_lightning.data.batches import GROUPED_ROWS
from mlp_lightning.training.groups import STEPS_PER_EXECUTION


def seconds_a_step(steps: Callable[[Tensor, Tensor, int], None], x: Tensor, y: Tensor, at_least: float) -> float:
    """The mean over as many groups as take ``at_least`` seconds."""
    n = max(1, min(STEPS_PER_EXECUTION - 1, GROUPED_ROWS // len(x)))
    return seconds_a_call(lambda: steps(x, y, n), at_least) / n


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=5)
    benchmark.parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    benchmark.parser.add_argument("--seconds", type=float, default=0.15, help="of each timing, at least")
    options = benchmark.start()
    networks = [SMALL, NOTEBOOK, LARGE]
    if options.quick:
        networks, options.batch_sizes, options.seconds = [SMALL, NOTEBOOK], [64, 256], 0.02
    data = digits()
    for sizes in networks:
        contenders = {name: build(sizes) for name, build in STEPS.items()}
        for batch_size in options.batch_sizes:
            x, y = data.train_x[:batch_size], data.train_y[:batch_size]
            timers = {
                name: lambda steps=contender.steps, x=x, y=y: seconds_a_step(steps, x, y, options.seconds)
                for name, contender in contenders.items()
            }
            in_turn(timers, 1)  # memory, threads and caches
            seconds = in_turn(timers, options.rounds, benchmark.calm)
            print(f"\n{label(sizes)}, batch {batch_size}")
            for name in timers:
                over = ratio(seconds[name], seconds[FLOOR])
                benchmark.row(
                    f"  {name:28} {spread(seconds[name]).median * 1e6:9.0f} µs a step, ratio {over}",
                    network=label(sizes),
                    batch_size=batch_size,
                    name=name,
                    seconds=seconds[name],
                    ratio=over,
                )
    benchmark.finish()


if __name__ == "__main__":
    run()
