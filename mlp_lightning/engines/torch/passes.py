"""The MLP's forward and backward pass in memory that is kept between steps."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.engines.native.chain import NativeChain, has_chain
from mlp_lightning.engines.native.library import is_native
from mlp_lightning.engines.native.linear import NativeLinear, native_linear
from mlp_lightning.engines.native.memory import ChainMemory, mixed_memory, sparse_memory
from mlp_lightning.engines.torch.buffers import BufferPool, Buffers
from mlp_lightning.engines.torch.in_place import IN_PLACE, IN_TORCH, LinearInPlace
from mlp_lightning.nn.dropout import dropout_backward, dropout_forward
from mlp_lightning.nn.flat_storage import Layer
from mlp_lightning.nn.linear import linear_backward
from mlp_lightning.nn.mlp import MLP
from mlp_lightning.nn.norm import NormCache, follow_, norm_backward_, norm_forward_
from mlp_lightning.nn.training_pass import TrainingPass

# Of the products that a whole network in C has.
CHAINED = (torch.float32, torch.bfloat16)
# From how many samples on it pays to pass over zeros: where a layer's weights have to be transposed for every pass,
# where steps leave them so, and where such steps have left them.
MANY_ROWS, SOME_ROWS, FEW_ROWS = 32, 4, 1


class Workspace:
    """The two passes of ``MLP`` without an allocation, for training steps.

    The formulas are those of ``MLP.forward`` and ``MLP.backward``, which stay the ones to read and to compare with.
    Here every matrix product is written into memory that the next step uses again, and activations and their
    derivatives are taken in place, as are norms but for the small sums over them. The backward pass hands out each
    layer's (dZ, A) instead of deciding what becomes of them: a gradient, an update, or both.

    With a ``dtype`` of fewer bits than the parameter's this is mixed precision (Micikevicius et al. 2018): products are
    computed from copies in that dtype, made anew by each forward pass, and sum up in float32 before they are rounded to
    it; the weights proper, their gradients, the norms, the logits and the loss keep the parameter's dtype.

    On a processor with a C compiler the layers of float32 are computed in C (``NativeLinear``), and a ReLU network
    without norms or masks as a whole (``NativeChain``): also in mixed precision where the processor multiplies bfloat16
    in hardware, and then float32 sums are not rounded but where they become an operand of the next product.

    ``layers`` are the network's, or views of their copies, as the last forward pass used them. ``norm_gradients`` holds
    (dγ_k, dβ_k) ``(H,)`` of the layers that the last backward pass has come to.

    Args:
        network: whose parameter the passes read; it must stay on its device.
        dtype: of the matrix products; None for the parameter's.
        rows_with_zeros: from how many samples on a ``NativeChain`` passes over what is 0 in them.
    """

    def __init__(self, network: MLP, dtype: torch.dtype | None = None, rows_with_zeros: int = MANY_ROWS) -> None:
        flat = network.flat.detach()
        self.network = network
        self.is_mixed = dtype is not None and dtype != flat.dtype
        self.dtype = dtype if dtype is not None else flat.dtype
        self._forward, self._backward = IN_PLACE[network.activation]
        self._is_relu = network.activation == "relu"
        self._native = native_linear() if not self.is_mixed and is_native(flat) else None
        self._has_chain = network.activation == "relu" and not network.norms and is_native(flat)
        self._has_chain = self._has_chain and self.dtype in CHAINED and has_chain(is_mixed=self.is_mixed)
        self._linear: LinearInPlace | NativeLinear = IN_TORCH
        self.layers = network.layers
        self._has_norms = bool(network.norms)
        self._norms: list[NormCache] = []
        self.norm_gradients: dict[int, tuple[Tensor, Tensor]] = {}
        self._chain: NativeChain | None = None
        self._chains: dict[int, tuple[Sequence[Layer], Buffers, NativeChain]] = {}
        self._no_masks: Sequence[Tensor | None] = [None] * len(self.layers)
        self._masks: Sequence[Tensor | None] = self._no_masks
        self._rows_with_zeros = rows_with_zeros
        self._pool = BufferPool(network, self.dtype)
        if self.is_mixed:
            # Outside of inference mode, whose tensors could not be written in training.
            with torch.inference_mode(False):
                self._copy, self._copy_grad = (torch.zeros_like(flat, dtype=dtype) for _ in range(2))
            self._copy_layers = network.layers_on(self._copy, self._copy_grad)

    def forward(self, x: Tensor, training: TrainingPass | None = None) -> Tensor:
        """The logits ``(B, K)`` of inputs ``(B, D)``, in the parameter's dtype; valid until the next call.

        Args:
            x: X.
            training: as ``MLP.forward``'s, with masks in the dtype of the products; None to evaluate.
        """
        layers = self.layers = self._own_layers = self.network.layers
        masks = training.masks if training is not None else ()
        drops = any(mask is not None for mask in masks)
        self._masks = masks if drops else self._no_masks
        buffers = self._buffers = self._pool.buffers(x.shape[0], drops=drops)
        self._norms = []
        if self.is_mixed:
            layers = self.layers = self._copy_layers
        chain = self._chain = None if drops else self._chain_for(x)
        if chain is not None:
            self._linear = IN_TORCH if self._native is None else self._native
            logits = chain.forward(x)
            self._a = chain.activations
            self._inputs = [x, *self._a]
            return logits
        if self.is_mixed:
            self._copy.copy_(self.network.flat)
            x = x.to(self.dtype)
        linear = self._linear = self._linear_for(x)
        self._a = []
        self._inputs = [self._dropped(0, x)]
        for k, layer in enumerate(layers[:-1]):
            if isinstance(linear, NativeLinear) and self._is_relu and not self._has_norms:
                self._a.append(linear.forward(self._inputs[k], layer.weight, layer.bias, buffers.z[k], least=0.0))
            else:
                n = linear.forward(self._inputs[k], layer.weight, layer.bias, buffers.z[k])
                self._a.append(self._forward(self._normed(k, n, training) if self._has_norms else n))
            self._inputs.append(self._dropped(k + 1, self._a[k]))
        logits = linear.forward(self._inputs[-1], layers[-1].weight, layers[-1].bias, buffers.z[-1])
        return logits.to(self.network.flat.dtype) if self.is_mixed else logits

    @property
    def is_native(self) -> bool:
        """Whether the last forward pass was computed in C."""
        return self._chain is not None or self._linear is self._native

    def _linear_for(self, x: Tensor) -> LinearInPlace | NativeLinear:
        """What computes the layers of this minibatch: torch, where C would not take it, which tells what is wrong."""
        return self._native if self._native is not None and self._takes(x) else IN_TORCH

    def _takes(self, x: Tensor) -> bool:
        return is_native(x) and x.ndim == 2 and x.shape[1] == self.network.sizes[0]

    def _chain_for(self, x: Tensor) -> NativeChain | None:
        """The whole network in C, where it takes this minibatch."""
        if not (self._has_chain and self._takes(x)):
            return None
        rows, layers, buffers = x.shape[0], self._own_layers, self._buffers
        of_layers, of_buffers, chain = self._chains.get(rows, (None, None, None))
        if chain is None or of_layers is not layers or of_buffers is not buffers:
            chain = self._new_chain(rows)
            self._chains[rows] = layers, buffers, chain
        return chain

    def chain_of(self, x: Tensor) -> NativeChain | None:
        """The whole network in C for minibatches like this one, without masks; None where it does not take them."""
        self._own_layers, self.layers = self.network.layers, self._copy_layers if self.is_mixed else self.network.layers
        self._masks, self._buffers = self._no_masks, self._pool.buffers(x.shape[0], drops=False)
        return self._chain_for(x)

    def _new_chain(self, rows: int) -> NativeChain:
        buffers, sizes = self._buffers, self.network.sizes
        if self.is_mixed:
            return NativeChain(self._own_layers, mixed_memory(self._pool, rows, sizes))
        dlogits = self._pool.rows("dz of the logits", rows, sizes[-1:], self.dtype)
        memory = ChainMemory(buffers.z, [*buffers.da, *dlogits])
        sparse = sparse_memory(self._pool, rows, sizes)
        return NativeChain(self._own_layers, memory, sparse, self._rows_with_zeros)

    def _dropped(self, k: int, a: Tensor) -> Tensor:
        mask = self._masks[k]
        return a if mask is None else dropout_forward(a, mask, self._buffers.dropped[k])

    def _normed(self, k: int, z: Tensor, training: TrainingPass | None) -> Tensor:
        if self._buffers.z_hat:
            z = self._buffers.z_hat[k].copy_(z)
        n, cache = norm_forward_(self.network.norms[k], z, training, self._buffers.n[k])
        self._norms.append(cache)
        return n

    @property
    def activations(self) -> list[Tensor]:
        """A_k ``(B, H)`` of each hidden layer, as ``forward`` left them; ``backward`` spends them."""
        return self._a

    def backward(self, dlogits: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Hand out (k, dZ_k ``(B, H)``, A_{k−1} ``(B, D)``) for each layer k, from the last to the first.

        By the time a layer is handed out its weights have served: they may be changed. The tensors are valid until the
        next layer is asked for. With dropout the A are those that the layers read.

        Args:
            dlogits: dLoss/dlogits ``(B, K)``, for what ``forward`` returned last.
        """
        if self._chain is not None and self.is_mixed:
            # The chain rounds on its way what is torch's to multiply here.
            self._copy.copy_(self.network.flat)
            self._inputs = [a.to(self.dtype).contiguous() for a in self._inputs]
            self._a = self._inputs[1:]
        layers, buffers, linear = self.layers, self._buffers, self._linear
        dz = dlogits.to(self.dtype).contiguous()
        for k in range(len(layers) - 1, 0, -1):
            da = linear.backward_input(dz, layers[k].weight, buffers.da[k - 1])
            yield k, dz, self._inputs[k]
            da = dropout_backward(da, self._masks[k])
            if isinstance(linear, NativeLinear) and self._is_relu:
                dz = linear.relu_backward_(da, self._a[k - 1])
            else:
                dz = self._backward(da, (buffers.n or buffers.z)[k - 1], self._a[k - 1])
            if self._norms:
                dz = self._norm_backward(k - 1, dz)
        yield 0, dz, self._inputs[0]

    def _norm_backward(self, k: int, dn: Tensor) -> Tensor:
        cache = self._norms[k]
        dz, dgamma, dbeta = norm_backward_(self.network.norms[k], dn.to(cache.z_hat.dtype), cache)
        self.norm_gradients[k] = dgamma, dbeta
        return dz if dz is dn else dn.copy_(dz)

    def write_gradient(self, k: int, dz: Tensor, a: Tensor, *, add: bool = False) -> None:
        """dW_k, db_k, dγ_k and dβ_k into ``network.flat_grad``, from what ``backward`` handed out for layer k.

        Args:
            k: the layer.
            dz: dZ_k.
            a: A_{k−1}.
            add: whether they are added to what is there, which other minibatches left.
        """
        layer, write = self._own_layers[k], Tensor.add_ if add else Tensor.copy_
        if self.is_mixed:
            dweight, dbias = self._copy_layers[k].dweight, torch.empty_like(layer.dbias)
            linear_backward(dz, a, dweight, dbias)
            write(layer.dweight, dweight)
            write(layer.dbias, dbias)
        else:
            keep = float(add)
            self._linear.backward(dz, a, layer.dweight, layer.dbias, keep=keep, keep_bias=keep)
        if k < len(self._norms):
            norm, (dgamma, dbeta) = self.network.norms[k], self.norm_gradients[k]
            write(norm.dgamma, dgamma)
            write(norm.dbeta, dbeta)

    def add_gradient(self, k: int, dz: Tensor, a: Tensor, *, share: float, keep: float, keep_bias: float) -> None:
        """W_k ← keep · W_k + share · dW_k and b_k ← keep_bias · b_k + share · db_k.

        Since dW = dZᵀ A, this is one matrix product that adds to what is there: it saves writing dW and reading it. In
        mixed precision torch cannot add it to another dtype, and forms it first.

        Args:
            k: the layer.
            dz: dZ_k, as ``backward`` handed it out.
            a: A_{k−1}, likewise.
            share: usually −η.
            keep: 1, or less for a decay.
            keep_bias: likewise.
        """
        layer = self._own_layers[k]
        if self.is_mixed:
            self.write_gradient(k, dz, a)
            layer.weight.mul_(keep).add_(layer.dweight, alpha=share)
            layer.bias.mul_(keep_bias).add_(layer.dbias, alpha=share)
        else:
            self._linear.backward(dz, a, layer.weight, layer.bias, share=share, keep=keep, keep_bias=keep_bias)

    def write_gradients(self, dlogits: Tensor, *, add: bool = False) -> float | None:
        """``write_gradient`` of all layers, for what ``forward`` returned last.

        Returns the sum over the gradients of all biases where it costs nothing, else None.
        """
        if self._chain is not None:
            return self._chain.backward(dlogits.contiguous(), descends=False, keep=float(add), keep_bias=float(add))
        for k, dz, a in self.backward(dlogits):
            self.write_gradient(k, dz, a, add=add)
        return None

    def descend(
        self, dlogits: Tensor, *, share: float, keep: float, keep_bias: float, keep_gradient: bool = False
    ) -> float | None:
        """``add_gradient`` of all layers, for what ``forward`` returned last; the sum over all biases, likewise.

        Args:
            dlogits: dLoss/dlogits ``(B, K)``.
            share: as of ``add_gradient``, and those that follow.
            keep_gradient: whether ``write_gradient`` comes before.
        """
        numbers = {"share": share, "keep": keep, "keep_bias": keep_bias}
        if self._chain is not None:
            dlogits = dlogits.contiguous()
            if keep_gradient:
                self._chain.backward(dlogits, descends=False)
            return self._chain.backward(dlogits, descends=True, **numbers)
        for k, dz, a in self.backward(dlogits):
            if keep_gradient:
                self.write_gradient(k, dz, a)
            self.add_gradient(k, dz, a, **numbers)
        return None

    def follow(self) -> None:
        """Let batch norm's running statistics follow the minibatch that ``forward`` saw last, in training."""
        if self._norms:
            for norm, cache in zip(self.network.norms, self._norms, strict=True):
                follow_(norm, cache)

    def __getstate__(self) -> dict[str, Any]:
        # Addresses hold in this process alone.
        return {**self.__dict__, "_chain": None, "_chains": {}}
