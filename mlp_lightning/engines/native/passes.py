"""The passes of ``TorchPasses`` with C in the place of torch's operations, where it takes them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.engines.native.chain import NativeChain, has_chain
from mlp_lightning.engines.native.library import is_native
from mlp_lightning.engines.native.linear import NativeLinear, native_linear
from mlp_lightning.engines.native.memory import ChainMemory, mixed_memory, sparse_memory
from mlp_lightning.engines.passes import GRADIENT, MANY_ROWS, LayerDelta, LinearStep
from mlp_lightning.engines.torch.buffers import Buffers
from mlp_lightning.engines.torch.in_place import IN_TORCH
from mlp_lightning.engines.torch.passes import TorchPasses
from mlp_lightning.nn.flat_storage import Layer
from mlp_lightning.nn.mlp import MLP
from mlp_lightning.nn.training_pass import TrainingPass

# Of the products that a whole network in C has.
CHAINED = (torch.float32, torch.bfloat16)


class NativePasses(TorchPasses):
    """The two passes of ``MLP``, in C as far as it has them.

    Layers of float32 are computed in C (``NativeLinear``), and a ReLU network without norms or masks as a whole
    (``NativeChain``): also in mixed precision where the processor multiplies bfloat16 in hardware. There float32 sums
    are rounded only where they become an operand of the next product. A minibatch that C does not take is torch's.

    Args:
        network: whose parameter the passes read; it must stay where it is.
        dtype: of the matrix products; None for the parameter's.
        min_rows_sparse: from how many samples on a ``NativeChain`` skips zeros of a layer's input.
    """

    def __init__(self, network: MLP, dtype: torch.dtype | None = None, min_rows_sparse: int = MANY_ROWS) -> None:
        super().__init__(network, dtype)
        flat = network.flat.detach()
        self._is_relu = network.activation == "relu"
        self._native = native_linear() if not self.is_mixed and is_native(flat) else None
        self.why_by_layer = self._why_by_layer()
        self._chain: NativeChain | None = None
        self._chains: dict[int, tuple[Sequence[Layer], Buffers, NativeChain]] = {}
        self._min_rows_sparse = min_rows_sparse

    def _why_by_layer(self) -> str | None:
        """Why C never computes the network as a whole, in words; None where it does."""
        if not self._is_relu:
            return f"activation {self.network.activation} is computed layer by layer"
        if self.network.norms:
            return "a norm is computed layer by layer"
        if not is_native(self.network.flat.detach()) or self.dtype not in CHAINED:
            return f"products in {str(self.dtype).removeprefix('torch.')} are torch's"
        if not has_chain(is_mixed=self.is_mixed):
            return "the processor has no bfloat16 products" if self.is_mixed else "torch's BLAS has no sgemm to call"
        return None

    def forward(self, x: Tensor, training: TrainingPass | None = None) -> Tensor:
        """The logits ``(B, K)`` of inputs ``(B, D)``, as ``TorchPasses.forward``."""
        self._linear = self._linear_for(x)
        self._begin(x, training)
        chain = self._chain = None if self._masks is not self._no_masks else self._chain_for(x)
        if chain is None:
            return self._forward_by_layer(x, training)
        logits = chain.forward(x)
        self._a = chain.activations
        self._inputs = [x, *self._a]
        return logits

    @property
    def is_native(self) -> bool:
        """Whether the last forward pass was computed in C."""
        return self._chain is not None or self._linear is self._native

    def _linear_for(self, x: Tensor) -> Any:
        """What computes the layers of this minibatch: torch, where C would not take it, which tells what is wrong."""
        return self._native if self._native is not None and self._takes(x) else IN_TORCH

    def _takes(self, x: Tensor) -> bool:
        return is_native(x) and x.ndim == 2 and x.shape[1] == self.network.sizes[0]

    def _chain_for(self, x: Tensor) -> NativeChain | None:
        """The whole network in C, where it takes this minibatch."""
        if self.why_by_layer is not None or not self._takes(x):
            return None
        rows, layers, buffers = x.shape[0], self._own_layers, self._buffers
        of_layers, of_buffers, chain = self._chains.get(rows, (None, None, None))
        if chain is None or of_layers is not layers or of_buffers is not buffers:
            chain = self._new_chain(rows)
            self._chains[rows] = layers, buffers, chain
        return chain

    def chain_of(self, x: Tensor) -> NativeChain | None:
        """The whole network in C for minibatches like this one, without masks; None where it does not take them."""
        self._begin(x, None)
        return self._chain_for(x)

    def _new_chain(self, rows: int) -> NativeChain:
        buffers, sizes = self._buffers, self.network.sizes
        if self.is_mixed:
            return NativeChain(self._own_layers, mixed_memory(self._pool, rows, sizes))
        dlogits = self._pool.rows("dz of the logits", rows, sizes[-1:], self.dtype)
        memory = ChainMemory(buffers.z, [*buffers.da, *dlogits])
        sparse = sparse_memory(self._pool, rows, sizes)
        return NativeChain(self._own_layers, memory, sparse, self._min_rows_sparse)

    def _hidden_forward(self, k: int, x: Tensor, training: TrainingPass | None) -> Tensor:
        linear, layer = self._linear, self.layers[k]
        if self._is_relu and isinstance(linear, NativeLinear) and not self.network.norms:
            return linear.forward(x, layer.weight, layer.bias, self._buffers.z[k], lower=0.0)
        return super()._hidden_forward(k, x, training)

    def _hidden_backward(self, k: int, da: Tensor) -> Tensor:
        if self._is_relu and isinstance(self._linear, NativeLinear):
            return self._linear.relu_backward_(da, self._a[k])
        return super()._hidden_backward(k, da)

    def backward(self, dlogits: Tensor) -> Iterator[LayerDelta]:
        """The delta of each layer, from the last to the first, as ``TorchPasses.backward``."""
        if self._chain is not None and self.is_mixed:
            # The chain rounds on its way what is torch's to multiply here.
            self._copy.copy_(self.network.flat)
            self._inputs = [a.to(self.dtype).contiguous() for a in self._inputs]
            self._a = self._inputs[1:]
        return super().backward(dlogits)

    def write_gradients(self, dlogits: Tensor, *, add: bool = False) -> float | None:
        """``write_gradient`` of all layers, for what ``forward`` returned last.

        Returns the sum over the gradients of all biases where it costs nothing, else None.
        """
        if self._chain is None:
            return super().write_gradients(dlogits, add=add)
        return self._chain.backward(dlogits.contiguous(), LinearStep(1.0, float(add), float(add)))

    def update_in_products(self, dlogits: Tensor, step: LinearStep, *, keep_gradient: bool = False) -> float | None:
        """``update_in_product`` of all layers, for what ``forward`` returned last; likewise the sum over all biases."""
        if self._chain is None:
            return super().update_in_products(dlogits, step, keep_gradient=keep_gradient)
        dlogits = dlogits.contiguous()
        if keep_gradient:
            self._chain.backward(dlogits, GRADIENT)
        return self._chain.backward(dlogits, step, updates=True)

    def __getstate__(self) -> dict[str, Any]:
        # Addresses hold in this process alone.
        return {**self.__dict__, "_chain": None, "_chains": {}}
