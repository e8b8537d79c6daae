"""How a step's cost grows with width, depth and batch size, and an epoch's with the number of images.

    python benchmarks/growth.py [--rounds 5]

One thing grows and all else stays: the widths of a network as wide everywhere, its hidden layers, the minibatch, the
images. Beside the slope of the time in log-log coordinates stands the slope of the multiply-adds over the same points,
which is what an implementation without overhead would show; smaller means that fixed costs still count at the small
end, or that larger products run at a better rate. "Last" is the slope between the two largest points. All points and
steps of a sweep take turns.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from networks import NOTEBOOK, digits, hand_network
from results import Benchmark
from steps import FLOOR, STEPS
from timing import in_turn, seconds_a_call, spread

from mlp_lightning.data import Batches

SHOWN = (FLOOR, "fit's step, SGD", "fit's step, Adam", "autograd, SGD")


class Point(NamedTuple):
    """One size of what grows: how it is timed, and the multiply-adds it takes."""

    size: int
    make: Callable[[str], Callable[[], None]]
    multiply_adds: int


def step_point(size: int, sizes: Sequence[int], batch_size: int) -> Point:
    """A step of a network on random inputs."""

    def make(name: str) -> Callable[[], None]:
        contender = STEPS[name](sizes)
        x, y = torch.rand(batch_size, sizes[0]), torch.randint(0, sizes[-1], (batch_size,))
        return lambda: contender.step(x, y)

    return Point(size, make, batch_size * multiply_adds(sizes))


def epoch_point(images: int) -> Point:
    """An epoch of the notebook's network, shuffled, at batch 64."""

    def make(name: str) -> Callable[[], None]:
        contender, data = STEPS[name](NOTEBOOK), digits(images)
        batches = Batches(data.train_x, data.train_y, 64, shuffle=True)

        def epoch() -> None:
            for batch in batches:
                contender.step(batch.x, batch.y)

        return epoch

    return Point(images, make, images * multiply_adds(NOTEBOOK))


def multiply_adds(sizes: Sequence[int]) -> int:
    """A sample's: three products a layer, two for the first, which passes no gradient on."""
    return 3 * hand_network(sizes).weight_numel - sizes[0] * sizes[1]


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Least squares in log-log coordinates: the exponent p of cost ∝ sizeᵖ."""
    u, v = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    covariance = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
    return covariance / sum((a - mean_u) ** 2 for a in u)


def sweeps(quick: bool) -> dict[str, list[Point]]:
    widths, depths = [64, 128, 256, 512, 1024, 2048], [1, 2, 4, 8]
    batch_sizes, images = [16, 64, 256, 1024, 4096], [6_875, 13_750, 27_500, 55_000]
    if quick:
        widths, depths, batch_sizes, images = widths[:3], depths[:2], batch_sizes[:2], [1_000, 2_000]
    return {
        "width, 2 hidden layers, batch 256": [step_point(w, [w] * 4, 256) for w in widths],
        "hidden layers of 512, batch 256": [step_point(d, [512] * (d + 1) + [10], 256) for d in depths],
        "batch size, 784-500-250-100-10": [step_point(b, NOTEBOOK, b) for b in batch_sizes],
        "images in an epoch, batch 64": [epoch_point(n) for n in images],
    }


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=5)
    benchmark.parser.add_argument("--seconds", type=float, default=0.05, help="of each timing of a step, at least")
    options = benchmark.start()
    for growing, points in sweeps(options.quick).items():
        sizes = [point.size for point in points]
        work = [point.multiply_adds for point in points]
        print(f"\n{growing}: {', '.join(map(str, sizes))}; slope of the multiply-adds {slope(sizes, work):.2f}")
        timers = {}
        for name, point in itertools.product(SHOWN, points):
            if growing.startswith("images") and name == FLOOR:
                continue
            call = point.make(name)
            timers[f"{name}|{point.size}"] = lambda call=call: seconds_a_call(call, options.seconds)
        in_turn(timers, 1)
        seconds = in_turn(timers, options.rounds, benchmark.calm)
        for name in dict.fromkeys(key.split("|")[0] for key in timers):
            costs = [spread(seconds[f"{name}|{size}"]).median for size in sizes]
            whole, last = slope(sizes, costs), slope(sizes[-2:], costs[-2:])
            benchmark.row(
                f"  {name:20} slope {whole:.2f}, ratio to the multiply-adds' {whole / slope(sizes, work):.2f}, "
                f"last {last:.2f}; {', '.join(f'{1000 * cost:.3g}' for cost in costs)} ms",
                growing=growing,
                name=name,
                sizes=sizes,
                multiply_adds=work,
                seconds=costs,
                slope=whole,
                expected=slope(sizes, work),
                last=last,
            )
    benchmark.finish()


if __name__ == "__main__":
    run()
