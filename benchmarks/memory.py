"""Memory: bytes a parameter that live between two steps, and the peak of a step, beside torch's own.

    python benchmarks/memory.py

Bytes a parameter: after steps on one sample, whose activations are next to nothing, every live tensor is sorted into
parameter, gradient, optimizer state and the rest, scratch. The peak: what the resident memory of a fresh process
(Linux: ``VmHWM``, elsewhere ``getrusage``) grows by from before the network is made until three steps are done; the
minibatch itself is not counted. Bytes do not depend on the machine's mood: one measurement each, and medians for the
peak.
"""

import gc
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from networks import LARGE, NOTEBOOK, label
from results import Benchmark
from steps import LR, STEPS, Contender, autograd, hand
from timing import ratio, spread
from torch import Tensor

from mlp_lightning.nn import MLP
from mlp_lightning.optim import SGD

PEAK_BASELINE = "autograd, SGD"
RULES = {
    **{name: build for name, build in STEPS.items() if "," in name},
    "hand, momentum": lambda sizes: hand(sizes, lambda tensors: SGD(tensors, LR, momentum=0.9)),
    "autograd, momentum": lambda sizes: autograd(sizes, lambda tensors: torch.optim.SGD(tensors, LR, momentum=0.9)),
    "autograd, Adam": lambda sizes: autograd(sizes, lambda tensors: torch.optim.Adam(tensors, LR)),
}


def storages(tensors: Iterable[object]) -> dict[int, int]:
    """Bytes by address of the memory behind tensors; views share theirs."""
    found = [tensor.untyped_storage() for tensor in tensors if isinstance(tensor, Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


def live_tensors() -> list[object]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]


def bytes_a_parameter(contender: Contender, before: dict[int, int]) -> dict[str, float]:
    """What lives now and did not before, in kinds; what is of two kinds counts for the first."""
    network, optimizer = contender.network, contender.optimizer
    assert network is not None
    assert optimizer is not None
    parameters = list(network.parameters())
    # Plain SGD within the products never writes it: the memory is reserved, and not resident.
    own_gradient = [network.flat_grad] if isinstance(network, MLP) else []
    kinds = {
        "parameter": storages(parameters),
        "gradient": storages([*(parameter.grad for parameter in parameters), *own_gradient]),
        "state": storages(value for state in optimizer.state.values() for value in state.values()),
        "scratch": storages(live_tensors()),
    }
    count, counted, result = sum(map(torch.numel, parameters)), set(before), {}
    for kind, memory in kinds.items():
        result[kind] = sum(size for address, size in memory.items() if address not in counted) / count
        counted |= set(memory)
    return result


def resident() -> int:
    """Bytes of the peak of this process's resident memory."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_of_steps(name: str, sizes: tuple[int, ...], batch_size: int, threads: int) -> int:
    """Bytes, in this process, which should be fresh."""
    torch.set_num_threads(threads)
    x, y = torch.rand(batch_size, sizes[0]), torch.randint(0, sizes[-1], (batch_size,))
    # Another network's step first: what libraries allocate once is no memory of the step.
    RULES[name]((8, 8, sizes[-1])).step(x[:8, :8].contiguous(), y[:8])
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident
    before = resident()
    contender = RULES[name](sizes)
    for _ in range(3):
        contender.step(x, y)
    return resident() - before


def run() -> None:
    benchmark = Benchmark(__doc__, rounds=3)
    benchmark.parser.add_argument("--peak", choices=RULES, help="of these steps alone, as a bare number of bytes")
    benchmark.parser.add_argument("--batch-size", type=int, default=4096, help="of the peak")
    if "--peak" in sys.argv:
        options = benchmark.parser.parse_args()
        print(peak_of_steps(options.peak, LARGE, options.batch_size, options.threads))
        return
    options = benchmark.start()
    print(f"\nbytes a parameter in fp32, {label(NOTEBOOK)}, batch 1")
    x, y = torch.rand(1, NOTEBOOK[0]), torch.zeros(1, dtype=torch.int64)
    for name, build in RULES.items():
        before = storages(live_tensors())
        contender = build(NOTEBOOK)
        for _ in range(2):
            contender.step(x, y)
        kinds = bytes_a_parameter(contender, before)
        words = ", ".join(f"{kind} {size:.1f}" for kind, size in kinds.items())
        benchmark.row(f"  {name:28} {sum(kinds.values()):5.1f} = {words}", name=name, bytes=kinds)
        del contender

    print(f"\npeak of a step over {PEAK_BASELINE!r}, {label(LARGE)}, batch {options.batch_size}")
    names = [PEAK_BASELINE, *(name for name in STEPS if "," in name and name != PEAK_BASELINE)]
    names = names[:3] if options.quick else names
    arguments = ["--batch-size", str(options.batch_size), "--threads", str(options.threads)]
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            command = [sys.executable, __file__, "--peak", name, *arguments]
            peaks[name].append(int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    for name in names:
        over = ratio(peaks[name], peaks[PEAK_BASELINE])
        line = f"  {name:28} {spread(peaks[name]).median / 2**20:6.0f} MiB, ratio {over}"
        benchmark.row(line, name=name, batch_size=options.batch_size, peak=peaks[name], ratio=over)
    benchmark.finish()


if __name__ == "__main__":
    run()
