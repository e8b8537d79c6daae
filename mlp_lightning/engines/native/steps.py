"""Steps one after another in C, for processors: what a group of plain steps is made of, without Python between them."""

import ctypes
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.native.library import is_native, library
from mlp_lightning.engines.native.loss import NativeCrossEntropy
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.engines.passes import Evaluator
from mlp_lightning.optim.fused_form import FusedForm


class _Adam(ctypes.Structure):
    """``adam_t`` of ``native.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("theta", "m", "v", "grad")),
        *((name, ctypes.c_float) for name in ("one_minus_beta1", "beta2", "one_minus_beta2")),
    )


class _Evaluation(ctypes.Structure):
    """``evaluation_t`` of ``steps.c``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("forward", "chain", "x", "y")),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("losses", "right", "losses_of_rows", "dlogits")),
    )


class Made(NamedTuple):
    """The summed loss of each step that was made, before it; what its validation samples gave, and what SGD left."""

    losses: list[float]
    # The summed loss, and how many answers were right, after each step that was finite.
    evaluated: list[tuple[float, int]]
    # The sum over all biases after SGD's steps: where it is not finite, the last step is to blame.
    biases: float | None


class NativeSteps:
    """Makes steps as ``Engine`` does, to the bit, of plain SGD, or of Adam without a decay, and nothing around them.

    Args:
        passes: of the steps, which C computes as a whole.
        loss: likewise.
        form: of the rule, ``sgd`` or ``adam``.
        reduction: ``"mean"`` or ``"sum"`` of the minibatch.
    """

    def __init__(self, passes: NativePasses, loss: NativeCrossEntropy, form: FusedForm, reduction: str) -> None:
        functions = library()
        assert functions is not None
        self.passes, self.loss, self.form = passes, loss, form
        self._mean = reduction == "mean"
        self._biases = ctypes.c_double()
        self._make_steps = functions.make_steps
        pointer, size, count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        self._make_steps.argtypes = [*[pointer] * 3, size, *[pointer] * 2, size, size, ctypes.c_float]
        self._make_steps.argtypes += [*[pointer] * 7, count]
        self._make_steps.restype = size

    def run(self, batches: Sequence[Batch], rates: Sequence[float], evaluator: Evaluator | None = None) -> Made:
        """Make as many steps as are finite, from the first on: one that is missing was not finite, and was not made.

        Args:
            batches: minibatches of as many samples each.
            rates: the learning rate of each.
            evaluator: of the validation samples of each, as many each; None for none.
        """
        first, n = batches[0], len(batches)
        chain = self.passes.chain_of(first.x)
        if chain is None or not all(_fits(batch, first.x.shape) for batch in batches):
            return Made([], [], None)
        evaluation = None
        if evaluator is not None:
            evaluation = self._evaluation(batches, evaluator)
            if evaluation is None:
                return Made([], [], None)
        rows, classes = first.x.shape[0], self._classes
        adam, coefficients = self._coefficients(rates)
        losses_of_rows, dlogits = self.loss.memory(rows, classes)
        losses = (ctypes.c_double * n)()
        made = self._make_steps(
            *chain.for_steps,
            n,
            _pointers([batch.x for batch in batches]),
            _pointers([batch.y for batch in batches]),
            rows,
            classes,
            1.0 / rows if self._mean else 1.0,
            None if adam is None else ctypes.byref(adam),
            coefficients,
            losses,
            losses_of_rows.data_ptr(),
            dlogits.data_ptr(),
            ctypes.byref(self._biases),
            None if evaluation is None else ctypes.byref(evaluation.struct),
            torch.get_num_threads(),
        )
        self.form.count(made)
        biases = self._biases.value if made and adam is None else None
        evaluated = []
        if evaluation is not None:
            finite = made - (biases is not None and not math.isfinite(biases))
            evaluated = list(zip(evaluation.losses[:finite], evaluation.right[:finite], strict=True))
        return Made(losses[:made], evaluated, biases)

    @property
    def _classes(self) -> int:
        return self.passes.network.sizes[-1]

    def _evaluation(self, batches: Sequence[Batch], evaluator: Evaluator) -> "_EvaluationMemory | None":
        """The evaluation of the validation samples of some minibatches, or None where C does not take them."""
        shape, n = batches[0].val_x.shape, len(batches)
        passes, loss = evaluator
        if not isinstance(passes, NativePasses) or not isinstance(loss, NativeCrossEntropy) or not shape[0]:
            return None
        chain = passes.chain_of(batches[0].val_x)
        if chain is None or not all(_are_classified(batch.val_x, batch.val_y, shape) for batch in batches):
            return None
        xs, ys = _pointers([batch.val_x for batch in batches]), _pointers([batch.val_y for batch in batches])
        losses, right = (ctypes.c_double * n)(), (ctypes.c_int64 * n)()
        memory = loss.memory(shape[0], self._classes)
        forward, _, of_network = chain.for_steps
        address = ctypes.addressof
        struct = _Evaluation(
            forward, of_network, address(xs), address(ys), shape[0], address(losses), address(right),
            *(tensor.data_ptr() for tensor in memory)
        )  # fmt: skip
        return _EvaluationMemory(struct, losses, right, (xs, ys, memory))

    def _coefficients(self, rates: Sequence[float]) -> "tuple[_Adam | None, ctypes.Array[ctypes.c_float]]":
        """Adam's memory and what stays the same, or None for SGD; and three coefficients of each step."""
        steps = [self.form.coefficients(lr, ahead) for ahead, lr in enumerate(rates)]
        if self.form.kind == "sgd":
            return None, _floats(x for step in steps for x in step)
        m, v = self.form.moments()
        tensors = (self.form.parameter, m, v, self.passes.network.flat_grad)
        _, _, _, *moments, _ = steps[0]
        adam = _Adam(*(tensor.data_ptr() for tensor in tensors), *moments)
        return adam, _floats(x for rate, *_, eps in steps for x in (rate, eps, 0.0))


class _EvaluationMemory(NamedTuple):
    struct: _Evaluation
    losses: "ctypes.Array[ctypes.c_double]"
    right: "ctypes.Array[ctypes.c_int64]"
    # What else the struct points to, for it to stay.
    kept: tuple[Any, ...]


def _floats(numbers: Iterable[float]) -> "ctypes.Array[ctypes.c_float]":
    held = tuple(numbers)
    return (ctypes.c_float * len(held))(*held)


def _pointers(tensors: Sequence[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def _fits(batch: Batch, shape: torch.Size) -> bool:
    """Whether C takes a minibatch: it is whole, and of this shape."""
    is_whole = batch.partner_y is None and batch.size == shape[0]
    return is_whole and _are_classified(batch.x, batch.y, shape)


def _are_classified(x: Tensor, y: Tensor, shape: torch.Size) -> bool:
    """Whether C takes samples of a shape, and a class for each."""
    fits = x.shape == shape and y.shape == shape[:1]
    return fits and is_native(x) and y.dtype == torch.int64 and y.is_contiguous()
