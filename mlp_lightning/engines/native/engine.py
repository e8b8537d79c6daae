"""Steps one after another in C, for processors: what a group of plain steps is made of, without Python between them."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.native.library import is_native, library
from mlp_lightning.engines.native.loss import NativeCrossEntropy
from mlp_lightning.engines.torch.passes import Workspace
from mlp_lightning.optim import SGD, Adam, AdamW, UpdateRule


class _Adam(ctypes.Structure):
    """``adam_t`` of ``native.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("theta", "m", "v", "grad")),
        *((name, ctypes.c_float) for name in ("share1", "beta2", "share2")),
    )


class _Evaluation(ctypes.Structure):
    """``evaluation_t`` of ``steps.c``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("forward", "chain", "x", "y")),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("losses", "right", "losses_of_rows", "dlogits")),
    )


class Evaluator(NamedTuple):
    """What evaluates a minibatch's validation samples after its step."""

    workspace: Workspace
    loss: NativeCrossEntropy


class Made(NamedTuple):
    """The summed loss of each step that was made, before it; what its validation samples gave, and what SGD left."""

    losses: list[float]
    # The summed loss, and how many answers were right, after each step that was finite.
    evaluated: list[tuple[float, int]]
    # The sum over all biases after SGD's steps: where it is not finite, the last step is to blame.
    biases: float | None


class NativeSteps:
    """Makes steps as ``HandStep`` does, to the bit, of plain SGD, or of Adam without a decay, and nothing around them.

    Args:
        workspace: of the steps.
        loss: likewise.
        rule: for which ``takes`` is true.
        reduction: ``"mean"`` or ``"sum"`` of the minibatch.
    """

    def __init__(self, workspace: Workspace, loss: NativeCrossEntropy, rule: UpdateRule, reduction: str) -> None:
        functions = library()
        assert functions is not None
        self.workspace, self.loss, self.rule = workspace, loss, rule
        self._mean = reduction == "mean"
        self._biases = ctypes.c_double()
        self._make_steps = functions.make_steps
        pointer, size, count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        self._make_steps.argtypes = [*[pointer] * 3, size, *[pointer] * 2, size, size, ctypes.c_float]
        self._make_steps.argtypes += [*[pointer] * 7, count]
        self._make_steps.restype = size

    @staticmethod
    def takes(rule: UpdateRule) -> bool:
        """Whether steps of this rule can be made here, where nothing else needs the gradient."""
        (group,) = rule.param_groups
        if isinstance(rule, SGD):
            return bool(group["momentum"] == 0)
        return isinstance(rule, Adam | AdamW) and not group["amsgrad"] and not group["weight_decay"]

    def run(self, batches: Sequence[Batch], rates: Sequence[float], evaluator: Evaluator | None = None) -> Made:
        """Make as many steps as are finite, from the first on: one that is missing was not finite, and was not made.

        Args:
            batches: minibatches of as many samples each.
            rates: the learning rate of each.
            evaluator: of the validation samples of each, as many each; None for none.
        """
        first, n = batches[0], len(batches)
        chain = self.workspace.chain_of(first.x)
        if chain is None or not all(_fits(batch, first.x.shape) for batch in batches):
            return Made([], [], None)
        evaluation = None
        if evaluator is not None:
            evaluation = self._evaluation(batches, evaluator)
            if evaluation is None:
                return Made([], [], None)
        rows, classes = first.x.shape[0], self._classes
        adam, numbers = self._numbers(rates)
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
            numbers,
            losses,
            losses_of_rows.data_ptr(),
            dlogits.data_ptr(),
            ctypes.byref(self._biases),
            None if evaluation is None else ctypes.byref(evaluation.struct),
            torch.get_num_threads(),
        )
        biases = None
        if isinstance(self.rule, SGD):
            biases = self._biases.value if made else None
        else:
            self.rule.state[self._parameter]["step"] += made
        evaluated = []
        if evaluation is not None:
            finite = made - (biases is not None and not math.isfinite(biases))
            evaluated = list(zip(evaluation.losses[:finite], evaluation.right[:finite], strict=True))
        return Made(losses[:made], evaluated, biases)

    @property
    def _classes(self) -> int:
        return self.workspace.network.sizes[-1]

    def _evaluation(self, batches: Sequence[Batch], evaluator: Evaluator) -> "_EvaluationMemory | None":
        """The evaluation of the validation samples of some minibatches, or None where C does not take them."""
        shape, n = batches[0].val_x.shape, len(batches)
        chain = evaluator.workspace.chain_of(batches[0].val_x) if shape[0] else None
        if chain is None or not all(_are_classified(batch.val_x, batch.val_y, shape) for batch in batches):
            return None
        xs, ys = _pointers([batch.val_x for batch in batches]), _pointers([batch.val_y for batch in batches])
        losses, right = (ctypes.c_double * n)(), (ctypes.c_int64 * n)()
        memory = evaluator.loss.memory(shape[0], self._classes)
        forward, _, of_network = chain.for_steps
        address = ctypes.addressof
        struct = _Evaluation(
            forward, of_network, address(xs), address(ys), shape[0], address(losses), address(right),
            *(tensor.data_ptr() for tensor in memory)
        )  # fmt: skip
        return _EvaluationMemory(struct, losses, right, (xs, ys, memory))

    @property
    def _parameter(self) -> Tensor:
        parameter: Tensor = self.rule.param_groups[0]["params"][0]
        return parameter

    def _numbers(self, rates: Sequence[float]) -> "tuple[_Adam | None, ctypes.Array[ctypes.c_float]]":
        rule, (group,) = self.rule, self.rule.param_groups
        of_steps: list[float] = []
        if isinstance(rule, SGD):
            for lr in rates:
                group["lr"] = lr
                of_steps += rule.within_product(group)
            return None, (ctypes.c_float * len(of_steps))(*of_steps)
        assert isinstance(rule, Adam | AdamW)
        m, v, t = rule.moments(self._parameter)
        for k, lr in enumerate(rates):
            group["lr"] = lr
            of_steps += [*rule.rate_and_eps(t + k + 1, group), 0.0]
        pointers = (self._parameter.data_ptr(), m.data_ptr(), v.data_ptr(), self.workspace.network.flat_grad.data_ptr())
        beta1, beta2 = group["betas"]
        numbers = (ctypes.c_float * len(of_steps))(*of_steps)
        return _Adam(*pointers, 1 - beta1, beta2, 1 - beta2), numbers


class _EvaluationMemory(NamedTuple):
    struct: _Evaluation
    losses: "ctypes.Array[ctypes.c_double]"
    right: "ctypes.Array[ctypes.c_int64]"
    # What else the struct points to, for it to stay.
    kept: tuple[Any, ...]


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
