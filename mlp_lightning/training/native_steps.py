"""Steps one after another in C, for processors: what a group of plain steps is made of, without Python between them."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from mlp_lightning.data.loader import Batch
from mlp_lightning.native import is_native, library
from mlp_lightning.nn.native_loss import NativeCrossEntropy
from mlp_lightning.nn.workspace import Workspace
from mlp_lightning.optim import SGD, Adam, AdamW, UpdateRule


class _Adam(ctypes.Structure):
    """``adam_t`` of ``native.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("theta", "m", "v", "grad")),
        ("numel", ctypes.c_int64),
        *((name, ctypes.c_float) for name in ("share1", "beta2", "share2")),
    )


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
        self._make_steps.argtypes = [*[pointer] * 4, count, pointer, size, *[pointer] * 2, size, size, ctypes.c_float]
        self._make_steps.argtypes += [*[pointer] * 6, count]
        self._make_steps.restype = size

    @staticmethod
    def takes(rule: UpdateRule) -> bool:
        """Whether steps of this rule can be made here, where nothing else needs the gradient."""
        (group,) = rule.param_groups
        if isinstance(rule, SGD):
            return bool(group["momentum"] == 0)
        return isinstance(rule, Adam | AdamW) and not group["amsgrad"] and not group["weight_decay"]

    def run(self, batches: Sequence[Batch], rates: Sequence[float]) -> tuple[list[float], float | None]:
        """Make as many steps as are finite, from the first on.

        Args:
            batches: minibatches of as many samples each.
            rates: the learning rate of each.

        Returns:
            The summed loss of each step that was made, before it, and after SGD the sum over all biases: where it is
            not finite, the last step is to blame. A step that is missing was not finite, and was not made.
        """
        first, n = batches[0], len(batches)
        chain = self.workspace.chain_of(first.x)
        if chain is None or not all(_fits(batch, first.x.shape) for batch in batches):
            return [], None
        rows, classes = first.x.shape[0], self.workspace.network.sizes[-1]
        adam, numbers = self._numbers(rates)
        losses_of_rows, dlogits = self.loss.memory(rows, classes)
        losses = (ctypes.c_double * n)()
        made = self._make_steps(
            *chain.for_steps,
            n,
            (ctypes.c_void_p * n)(*[batch.x.data_ptr() for batch in batches]),
            (ctypes.c_void_p * n)(*[batch.y.data_ptr() for batch in batches]),
            rows,
            classes,
            1.0 / rows if self._mean else 1.0,
            None if adam is None else ctypes.byref(adam),
            numbers,
            losses,
            losses_of_rows.data_ptr(),
            dlogits.data_ptr(),
            ctypes.byref(self._biases),
            torch.get_num_threads(),
        )
        if isinstance(self.rule, SGD):
            return losses[:made], self._biases.value if made else None
        self.rule.state[self._parameter]["step"] += made
        return losses[:made], None

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
        beta1, beta2 = group["beta1"], group["beta2"]
        numbers = (ctypes.c_float * len(of_steps))(*of_steps)
        return _Adam(*pointers, self._parameter.numel(), 1 - beta1, beta2, 1 - beta2), numbers


def _fits(batch: Batch, shape: torch.Size) -> bool:
    """Whether C takes a minibatch: samples of a shape, and a class for each."""
    y = batch.y
    is_whole = batch.partner_y is None and batch.size == shape[0] and y.shape == shape[:1]
    return is_whole and batch.x.shape == shape and is_native(batch.x) and y.dtype == torch.int64 and y.is_contiguous()
