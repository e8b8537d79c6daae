"""Steps one after another on a GPU: recorded as CUDA graphs, and replayed without Python between their kernels."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.batches import GATHERED_ROWS, Batch
from mlp_lightning.engines.triton.graphs import recording
from mlp_lightning.engines.triton.kernels import total_kernel
from mlp_lightning.engines.triton.step import MANY, CudaStep, Numbers, padded
from mlp_lightning.nn import MLP
from mlp_lightning.nn.losses import FusedLoss
from mlp_lightning.optim.fused_form import FusedForm

# How many steps a graph may hold. Whatever their number, a few graphs make them.
LENGTHS = (32, 16, 4, 1)
# A row of what a rule needs for a step, and one with which a step changes nothing.
WIDTH = 8
IDLE = {"sgd": (0, 1, 1, *[0] * 5), "momentum": (0, 1, 1, 1, 0, 0, 0, 0), "adam": (0, 1, 1, 0, 1, 0, 1, 0)}


class Made(NamedTuple):
    """What some steps left, on the device: their summed losses ``(n,)``, and the sums of each and of its db."""

    losses: Tensor
    totals: Tensor


class Recording:
    """Graphs of steps on minibatches of one size, each of which reads and writes places of its own.

    Args:
        step: what is recorded.
        idle: the numbers of a rule that changes nothing.
    """

    def __init__(self, step: CudaStep, idle: Sequence[float]) -> None:
        network, rows = step.network, step.rows
        self.most = max(1, min(LENGTHS[0], GATHERED_ROWS // rows))
        flat, n = network.flat.detach(), self.most
        self._step, self._idle = step, idle
        slots = [padded(rows, network.sizes[0], step.dtype, flat.device) for _ in range(n)]
        self._slots, self._x = slots, [slot[:, : network.sizes[0]] for slot in slots]
        self._y = [torch.zeros(rows, dtype=torch.int64, device=flat.device) for _ in range(n)]
        self._of_rule, self._losses, self._totals, self._results = (
            torch.zeros(n, width, device=flat.device) for width in (WIDTH, step.n_losses, step.n_totals, 2)
        )
        self._beside = torch.cuda.Stream(flat.device)
        self._graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}

    def record(self) -> None:
        """Record all graphs that there are to be."""
        for n in LENGTHS:
            if n <= self.most:
                self._record(n, False)
        self._record(1, True)

    def replay(self, batches: Sequence[Batch], numbers: Tensor, *, keeps: bool) -> Tensor:
        """Make steps, as many as some graph holds; returns what each left, ``(n, 2)`` as in ``Made``.

        Args:
            batches: n minibatches.
            numbers: of the rule ``(n, WIDTH)``, in pinned memory, or the device would be waited for.
            keeps: whether the gradient is left in ``network.flat_grad``.
        """
        n = len(batches)
        graph = self._graphs.get((n, keeps)) or self._record(n, keeps)
        torch._foreach_copy_(self._x[:n], [batch.x for batch in batches])
        torch._foreach_copy_(self._y[:n], [batch.y for batch in batches])
        self._of_rule[:n].copy_(numbers, non_blocking=True)
        graph.replay()
        return self._results[:n].clone()

    def _record(self, n: int, keeps: bool) -> torch.cuda.CUDAGraph:
        # Kernels are compiled and loaded when first launched, which must not happen while they are recorded.
        self._of_rule[0] = torch.tensor(self._idle)
        self._launch(1, keeps)
        graph = torch.cuda.CUDAGraph()
        with recording(graph):
            self._launch(n, keeps)
        self._graphs[n, keeps] = graph
        return graph

    def _launch(self, n: int, keeps: bool) -> None:
        losses, totals = self._losses, self._totals
        for k in range(n):
            numbers = Numbers(self._of_rule[k], losses[k], totals[k])
            self._step.launch(self._slots[k], self._y[k], numbers, keeps=keeps, beside=self._beside)
        total_kernel[(n,)](losses, totals, self._results, losses.shape[1], totals.shape[1], COLUMNS=64)


class TritonSteps:
    """Makes plain steps; every one of them, so that groups of any size give the same bits.

    Args:
        network: on a GPU.
        loss: of the steps.
        form: of the rule, on ``network.flat``.
        reduction: ``"mean"`` or ``"sum"`` of the minibatch.
        dtype: of the products; None for float32.
    """

    def __init__(
        self, network: MLP, loss: FusedLoss, form: FusedForm, reduction: str, dtype: torch.dtype | None
    ) -> None:
        self.network, self.form = network, form
        self._smoothing, self._mean = loss.label_smoothing, reduction == "mean"
        self._precision = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
        self._rounded: list[Tensor] = []
        if dtype is not None:
            with torch.inference_mode(False):
                shapes = itertools.pairwise(network.sizes)
                self._rounded = [padded(fan_out, fan_in, dtype, network.flat.device) for fan_in, fan_out in shapes]
        self._largest = max(layer.weight.numel() for layer in network.layers)
        self._version = -1
        self._recordings: dict[int, Recording] = {}
        self._place: tuple[int, ...] = ()

    def fits(self, batch: Batch) -> bool:
        """Whether a minibatch is whole, each of its samples has a class, and cuBLAS would not be faster.

        That is so of large products of float32.
        """
        is_whole = batch.partner_y is None and batch.size == batch.x.shape[0] > 0
        return is_whole and self._is_ours(batch.size)

    def _is_ours(self, rows: int) -> bool:
        return bool(self._rounded) or rows * self._largest < MANY

    def prepare(self, sizes: Iterable[int]) -> None:
        """Record steps on minibatches of so many samples, which changes nothing."""
        for rows in sizes:
            if self._is_ours(rows):
                self._recording(rows).record()

    def run(self, batches: Sequence[Batch], rates: Sequence[float], *, keeps: bool = False) -> Made:
        """Make a step on each minibatch.

        Args:
            batches: minibatches of as many samples each, that it ``fits``.
            rates: the learning rate of each.
            keeps: whether the gradient is left in ``network.flat_grad``; of a single minibatch.
        """
        coefficients = torch.tensor([self._coefficients(lr) for lr in rates])
        numbers = coefficients.pin_memory()
        recording = self._recording(len(batches[0].x))
        flat = self.network.flat
        # Whoever else wrote to the weights, such as a checkpoint that was loaded, left the rounded ones behind.
        if self._rounded and flat._version != self._version:
            for rounded, layer in zip(self._rounded, self.network.layers, strict=True):
                rounded[:, : layer.weight.shape[1]] = layer.weight
            self._version = flat._version
        parts, start = [], 0
        while start < len(batches):
            stop = start + next(n for n in LENGTHS if n <= min(len(batches) - start, recording.most))
            parts.append(recording.replay(batches[start:stop], numbers[start:stop], keeps=keeps))
            start = stop
        made = torch.cat(parts)
        return Made(made[:, 0], made[:, 1])

    def _coefficients(self, lr: float) -> list[float]:
        """The coefficients of the next step, as ``FusedForm`` has them; WIDTH numbers."""
        coefficients = self.form.coefficients(lr)
        self.form.count(1)
        return [*coefficients, *[0.0] * (WIDTH - len(coefficients))]

    def _recording(self, rows: int) -> Recording:
        """Of minibatches of one size; anew where a tensor has moved."""
        network, moments = self.network, self.form.moments()
        place = tuple(tensor.data_ptr() for tensor in (network.flat, network.flat_grad, *moments))
        if place != self._place:
            self._recordings.clear()
            self._place = place
        if rows not in self._recordings:
            with torch.inference_mode(False):
                step = CudaStep(
                    network,
                    self._rounded,
                    moments,
                    rows,
                    rule=self.form.kind,
                    scale=1 / rows if self._mean else 1.0,
                    smoothing=self._smoothing,
                    precision=self._precision,
                )
                self._recordings[rows] = Recording(step, IDLE[self.form.kind])
        return self._recordings[rows]


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """Whether the kernels can be compiled here, for a GPU that has what they are made for."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        with torch.cuda.device(device):
            one = torch.zeros(1, device=device)
            total_kernel[(1,)](one, one, torch.zeros(2, device=device), 1, 1, COLUMNS=64)
    # Triton compiles with a C compiler, and says in many ways that something is missing.
    except Exception:
        return False
    return True
