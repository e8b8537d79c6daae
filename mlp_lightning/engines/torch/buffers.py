"""The memory of an MLP's passes: it grows with the largest minibatch, and smaller ones take its first rows."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlp_lightning.nn.mlp import MLP
from mlp_lightning.nn.norm import fine


class Buffers(NamedTuple):
    """Memory ``(B, H)`` of one batch size: a list a kind, an entry a layer; empty where a kind is not needed."""

    z: list[Tensor]
    da: list[Tensor]
    n: list[Tensor]
    z_hat: list[Tensor]
    dropped: list[Tensor]


class BufferPool:
    """``Buffers`` of any batch size, in one place.

    Args:
        network: whose passes need them.
        dtype: of the matrix products.
    """

    def __init__(self, network: MLP, dtype: torch.dtype) -> None:
        self._sizes, self._has_norms = network.sizes, bool(network.norms)
        self._dtype, self._device = dtype, network.flat.device
        self._views: dict[tuple[int, bool], Buffers] = {}
        self._memory: dict[str, list[Tensor]] = {}

    def buffers(self, batch_size: int, *, drops: bool) -> Buffers:
        """Those of one batch size: the same object until a larger minibatch comes.

        Args:
            batch_size: B.
            drops: whether a layer's input is dropped.
        """
        key = batch_size, drops
        if key not in self._views:
            *inner, _ = widths = self._sizes[1:]
            normed = inner if self._has_norms else ()
            fine_dtype = fine(self._dtype)
            self._views[key] = Buffers(
                z=self.rows("z", batch_size, widths, self._dtype),
                da=self.rows("da", batch_size, inner, self._dtype),
                n=self.rows("n", batch_size, normed, self._dtype),
                z_hat=self.rows("z_hat", batch_size, normed if fine_dtype != self._dtype else (), fine_dtype),
                dropped=self.rows("dropped", batch_size, self._sizes[:-1] if drops else (), self._dtype),
            )
        return self._views[key]

    def rows(self, kind: str, batch_size: int, widths: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        """Memory ``(B, H)`` for each of some widths; calls of one kind get the same."""
        memory = self._memory.get(kind)
        if widths and (memory is None or batch_size > len(memory[0])):
            self._views.clear()
            # Made under inference mode it could not be written in training.
            with torch.inference_mode(False):
                memory = [torch.empty(batch_size, width, dtype=dtype, device=self._device) for width in widths]
            self._memory[kind] = memory
        return [rows[:batch_size] for rows in memory] if widths and memory is not None else []
