"""The loss of a training step in C, for processors: forward and backward pass in one."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.engines.native.library import is_native, library
from mlp_lightning.nn.losses import Cache, Loss


class NativeCrossEntropy:
    """``SoftmaxCrossEntropy("sum")`` of classes, without weights or smoothing, in memory that the next step uses again.

    What C does not take is left to ``loss``, which says what is wrong with it where something is. A cache serves once,
    before the next ``forward``.

    Args:
        loss: which this computes.
        functions: the library.
    """

    def __init__(self, loss: Loss, functions: ctypes.CDLL) -> None:
        self._loss = loss
        self.normalizer = loss.normalizer
        self._forward, self._scale = functions.softmax_cross_entropy, functions.scale_dlogits
        self._forward.argtypes = [*[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 2, ctypes.c_int]
        self._forward.restype = ctypes.c_int
        self._scale.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_float]
        self._scale.restype = None
        self._sum = ctypes.c_double()
        self._sum_pointer = ctypes.addressof(self._sum)
        self._make_room(0, 0)
        self._was_native = False

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[float | Tensor, Cache]:
        """The loss, finite for any finite logits, and the cache that ``backward`` takes.

        It is a number, or 0-dim where torch computed it: to make a tensor of it takes longer than the loss itself.
        """
        fits = is_native(logits) and logits.ndim == 2 and targets.shape == logits.shape[:1]
        if not (fits and targets.dtype == torch.int64 and targets.is_contiguous()):
            return self._in_torch(logits, targets)
        rows, classes = logits.shape
        losses, dlogits = self.memory(rows, classes)
        pointers = (logits.data_ptr(), targets.data_ptr(), losses.data_ptr(), dlogits.data_ptr())
        if self._forward(*pointers, self._sum_pointer, rows, classes, torch.get_num_threads()):
            return self._in_torch(logits, targets)
        self._was_native = True
        return self._sum.value, (dlogits, targets, 1.0)

    def __reduce__(self) -> tuple[Any, ...]:
        return in_place, (self._loss,)

    def memory(self, rows: int, classes: int) -> tuple[Tensor, Tensor]:
        """The losses ``(B,)`` and dlogits ``(B, K)``."""
        if rows > self._rows or classes != self._classes:
            self._make_room(rows, classes)
        return self._losses, self._dlogits if rows == self._rows else self._dlogits[:rows]

    def _make_room(self, rows: int, classes: int) -> None:
        self._rows, self._classes = rows, classes
        with torch.inference_mode(False):
            self._dlogits, self._losses = torch.empty(rows, classes), torch.empty(rows)

    def _in_torch(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Cache]:
        self._was_native = False
        return self._loss.forward(logits, targets)

    def backward(self, cache: Cache, dloss: float | Tensor = 1.0) -> Tensor:
        """dlogits ``(B, K)``, times the incoming ``dloss``."""
        return self._in_c(cache[0], dloss) if self._was_native else self._loss.backward(cache, dloss)

    def _in_c(self, dlogits: Tensor, dloss: float | Tensor) -> Tensor:
        if isinstance(dloss, Tensor):
            return dlogits.mul_(dloss)
        self._scale(dlogits.data_ptr(), dlogits.numel(), dloss)
        return dlogits


def in_place(loss: Loss) -> Loss | NativeCrossEntropy:
    """What computes a loss in a training step: its counterpart in C where it has one, else itself."""
    if loss.fused is None or loss.fused.label_smoothing or loss.reduction != "sum":
        return loss
    functions = library()
    return loss if functions is None else NativeCrossEntropy(loss, functions)
