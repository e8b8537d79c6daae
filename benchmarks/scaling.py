"""What it costs to share each minibatch between two processes, in three ways, and when more devices stop paying.

    python benchmarks/scaling.py [--rounds 5] [--batch-size 256]

Two processes of one thread each (gloo, this machine) take the steps of 784-W-W-10 with Adam, each on its half of the
minibatch: alone, which is their arithmetic without a word to one another, and with the gradient summed as one flat
tensor, layer by layer while the backward pass goes on, or in shares (ZeRO-1). Ratios are to the step alone, round by
round, so one above 1 by 0.4 spends 0.4 of the arithmetic's time on communication.

From the same run the model of a step with n devices, each with B/n samples of a minibatch of B, and P parameters:

    t(n) = fixed + B/n · per_sample + 2 (n − 1) · hop + 2 (n − 1)/n · 4 P / bandwidth

whose last two terms are those of a ring's all-reduce (Patarasuk & Yuan 2009). ``fixed`` and ``per_sample`` are a line
through the steps alone at three shares, ``hop`` and ``bandwidth`` one through the all-reduces of all networks. More
devices pay while t falls. It leaves out that devices may slow each other, by their use of memory or network, or differ.
"""

import socket
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from networks import hand_network, label
from results import Benchmark
from steps import LR
from timing import in_turn, ratio, spread

from mlp_lightning.data import Batch
from mlp_lightning.engines.choice import choose
from mlp_lightning.engines.recipe import StepRecipe, Workers
from mlp_lightning.engines.shard import Shard
from mlp_lightning.nn import SoftmaxCrossEntropy
from mlp_lightning.optim import Adam

ALONE, FLAT, OVERLAPPED, SHARDED, SUM = "alone", "flat", "overlapped", "sharded", "all-reduce"
PROCESSES = 2
MOST_DEVICES = 1024


class Model(NamedTuple):
    """Seconds of a step as a function of devices and minibatch; bandwidth in bytes a second."""

    numel: int
    fixed: float
    per_sample: float
    hop: float
    bandwidth: float

    def step(self, samples: int, devices: int) -> float:
        """t(n) for a minibatch of so many samples."""
        seconds = self.fixed + samples / devices * self.per_sample
        if devices > 1:
            seconds += 2 * (devices - 1) * self.hop + bytes_sent(self.numel, devices) / self.bandwidth
        return seconds

    def best(self, samples: int) -> int:
        """The number of devices after which one more does not make the step shorter."""
        devices = range(1, min(samples, MOST_DEVICES))
        return next((n for n in devices if self.step(samples, n + 1) >= self.step(samples, n)), devices.stop)


def bytes_sent(numel: int, devices: int) -> float:
    """By each device in a step, in fp32: a reduce-scatter and an all-gather, of which an all-reduce consists."""
    return 2 * (devices - 1) / devices * 4 * numel


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept by least squares, neither below what a noisy measurement must not undercut."""
    slope, intercept = statistics.linear_regression(x, y)
    return max(slope, 1e-15), max(intercept, 0.0)


def make_step(sizes: Sequence[int], samples: int, mode: str) -> Callable[[], None]:
    """A step of one process on its ``samples`` random samples."""
    network = hand_network(sizes)
    rule = Adam([network.flat], LR)
    shard = Shard(network.flat.numel(), network.flat.device) if mode == SHARDED else None
    if shard is not None:
        shard.cut_(rule)
    n = 1 if mode == ALONE else PROCESSES
    loss = SoftmaxCrossEntropy("sum")
    workers = Workers(size=n, shard=shard, overlap=mode == OVERLAPPED)
    step = choose(StepRecipe(network=network, loss=loss, rule=rule, workers=workers)).engine
    x, y = torch.rand(samples, sizes[0]), torch.randint(0, sizes[-1], (samples,))
    batch = Batch(x, y, x[:0], y[:0], samples * n)

    def call() -> None:
        with torch.inference_mode():
            step(batch, LR, keep_gradient=False)

    return call


def seconds_together(call: Callable[[], None], at_least: float) -> float:
    """The mean of as many calls as take that long, the same number in each process."""
    call()
    dist.barrier()
    start = time.perf_counter()
    call()
    calls = torch.tensor(max(1, round(at_least / (time.perf_counter() - start))))
    dist.broadcast(calls, src=0)
    dist.barrier()
    start = time.perf_counter()
    for _ in range(int(calls)):
        call()
    return (time.perf_counter() - start) / int(calls)


def work(rank: int, port: int, options: Any, answer: Any) -> None:
    """One process: time everything in turn; rank 0 answers with seconds by (width, contender)."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    share, found = options.batch_size // PROCESSES, {}
    for width in options.widths:
        sizes = (784, width, width, 10)
        calls = {mode: make_step(sizes, share, mode) for mode in (ALONE, FLAT, OVERLAPPED, SHARDED)}
        calls |= {f"{ALONE}, {n}": make_step(sizes, n, ALONE) for n in (share // 4, 4 * share)}
        gradient = torch.zeros(hand_network(sizes).flat.numel())
        calls[SUM] = lambda gradient=gradient: dist.all_reduce(gradient)
        timers = {name: lambda call=call: seconds_together(call, options.seconds) for name, call in calls.items()}
        found[width] = in_turn(timers, options.rounds)
    if rank == 0:
        answer.put(found)
    dist.barrier()
    dist.destroy_process_group()


def models(found: dict[int, dict[str, list[float]]], share: int) -> dict[int, Model]:
    """The model of each width, fitted to the medians."""
    medians = {w: {name: spread(seconds).median for name, seconds in all_.items()} for w, all_ in found.items()}
    numels = {width: hand_network((784, width, width, 10)).flat.numel() for width in found}
    sums = [bytes_sent(numel, PROCESSES) for numel in numels.values()]
    per_byte, latency = line(sums, [medians[width][SUM] for width in found])
    fitted = {}
    for width, seconds in medians.items():
        shares = {share // 4: seconds[f"{ALONE}, {share // 4}"], share: seconds[ALONE]}
        shares[4 * share] = seconds[f"{ALONE}, {4 * share}"]
        per_sample, fixed = line(list(shares), list(shares.values()))
        # Between two processes a ring is two hops.
        fitted[width] = Model(numels[width], fixed, per_sample, latency / 2, 1 / per_byte)
    return fitted


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=5)
    benchmark.parser.set_defaults(threads=1)
    benchmark.parser.add_argument("--widths", type=int, nargs="+", default=[128, 512, 2048])
    benchmark.parser.add_argument("--batch-size", type=int, default=256, help="of both processes (default 256)")
    benchmark.parser.add_argument("--seconds", type=float, default=0.3, help="of each timing, at least")
    options = benchmark.start()
    if options.quick:
        options.widths, options.seconds = [16, 32, 64], 0.01
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answer = mp.get_context("spawn").SimpleQueue()
    processes = mp.start_processes(work, (port, options, answer), PROCESSES, join=False, start_method="spawn")
    found = None
    while not processes.join(timeout=0.1):
        found = answer.get() if not answer.empty() else found
    assert found is not None or not answer.empty()
    found = found if found is not None else answer.get()
    fitted = models(found, options.batch_size // PROCESSES)
    for width, model in fitted.items():
        seconds, kilobytes = found[width], bytes_sent(model.numel, PROCESSES) / 1000
        print(f"\n{label((784, width, width, 10))}, batch {options.batch_size}: {kilobytes:.0f} kB sent a step")
        for name in (ALONE, FLAT, OVERLAPPED, SHARDED):
            over = ratio(seconds[name], seconds[ALONE])
            benchmark.row(
                f"  {name:12} {spread(seconds[name]).median * 1e6:9.0f} µs a step, ratio {over}",
                width=width,
                name=name,
                seconds=seconds[name],
                ratio=over,
                bytes=0.0 if name == ALONE else bytes_sent(model.numel, PROCESSES),
            )
        batches = [options.batch_size * factor for factor in (1, 8, 64)]
        best = {samples: model.best(samples) for samples in batches}
        told = ", ".join(f"{n} at batch {samples}" for samples, n in best.items())
        benchmark.row(
            f"  model: fixed {model.fixed * 1e6:.0f} µs, {model.per_sample * 1e6:.2f} µs a sample, "
            f"{model.hop * 1e6:.0f} µs a hop, {model.bandwidth / 1e9:.2f} GB/s; devices that pay: {told}",
            width=width,
            name="model",
            **model._asdict(),
            best=best,
        )
    benchmark.finish()


if __name__ == "__main__":
    run()
