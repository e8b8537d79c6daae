"""The MLP's forward and backward pass in torch, in memory that is kept between steps."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.engines.passes import LayerDelta, LinearStep
from mlp_lightning.engines.torch.buffers import BufferPool
from mlp_lightning.engines.torch.in_place import IN_PLACE, IN_TORCH
from mlp_lightning.nn.dropout import dropout_backward, dropout_forward
from mlp_lightning.nn.linear import linear_backward
from mlp_lightning.nn.mlp import MLP
from mlp_lightning.nn.norm import NormCache, follow_, norm_backward_, norm_forward_
from mlp_lightning.nn.training_pass import TrainingPass


class TorchPasses:
    """The two passes of ``MLP`` without an allocation, for training steps.

    The formulas are those of ``MLP.forward`` and ``MLP.backward``, which stay the ones to read and to compare with.
    Here every matrix product is written into memory that the next step uses again, and activations, their derivatives
    and norms are computed in place. The backward pass hands out each layer's delta: the caller turns it into a
    gradient, an update, or both.

    With a ``dtype`` of fewer bits than the parameter's this is mixed precision (Micikevicius et al. 2018): products are
    computed from copies in that dtype, made anew by each forward pass, and summed in float32 before they are rounded to
    it; the weights proper, their gradients, the norms, the logits and the loss keep the parameter's dtype.

    Args:
        network: whose parameter the passes read; it must stay on its device.
        dtype: of the matrix products; None for the parameter's.
    """

    def __init__(self, network: MLP, dtype: torch.dtype | None = None) -> None:
        flat = network.flat.detach()
        self.network = network
        self.is_mixed = dtype is not None and dtype != flat.dtype
        self.dtype = dtype if dtype is not None else flat.dtype
        self.layers = network.layers
        self.norm_gradients: dict[int, tuple[Tensor, Tensor]] = {}
        in_place = IN_PLACE[network.activation]
        self._forward, self._backward = in_place.forward, in_place.backward
        self._linear: Any = IN_TORCH
        self._norms: list[NormCache] = []
        self._no_masks: Sequence[Tensor | None] = [None] * len(self.layers)
        self._masks: Sequence[Tensor | None] = self._no_masks
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
        self._begin(x, training)
        return self._forward_by_layer(x, training)

    def _forward_by_layer(self, x: Tensor, training: TrainingPass | None) -> Tensor:
        if self.is_mixed:
            self._copy.copy_(self.network.flat)
            x = x.to(self.dtype)
        linear, layers, buffers = self._linear, self.layers, self._buffers
        self._a: list[Tensor] = []
        self._inputs = [self._dropped(0, x)]
        for k in range(len(layers) - 1):
            self._a.append(self._hidden_forward(k, self._inputs[k], training))
            self._inputs.append(self._dropped(k + 1, self._a[k]))
        layer = layers[-1]
        logits = linear.forward(self._inputs[-1], layer.weight, layer.bias, buffers.z[-1])
        return logits.to(self.network.flat.dtype) if self.is_mixed else logits

    def _begin(self, x: Tensor, training: TrainingPass | None) -> None:
        """The memory, the masks and the layers of a pass."""
        self.layers = self._own_layers = self.network.layers
        if self.is_mixed:
            self.layers = self._copy_layers
        masks = training.masks if training is not None else ()
        drops = any(mask is not None for mask in masks)
        self._masks = masks if drops else self._no_masks
        self._buffers = self._pool.buffers(x.shape[0], drops=drops)
        self._norms = []

    def _hidden_forward(self, k: int, x: Tensor, training: TrainingPass | None) -> Tensor:
        """A_k ``(B, H)`` of a hidden layer, from what it reads."""
        layer = self.layers[k]
        z = self._linear.forward(x, layer.weight, layer.bias, self._buffers.z[k])
        return self._forward(self._normed(k, z, training) if self.network.norms else z)

    def _normed(self, k: int, z: Tensor, training: TrainingPass | None) -> Tensor:
        if self._buffers.z_hat:
            z = self._buffers.z_hat[k].copy_(z)
        n, cache = norm_forward_(self.network.norms[k], z, training, self._buffers.n[k])
        self._norms.append(cache)
        return n

    def _dropped(self, k: int, a: Tensor) -> Tensor:
        mask = self._masks[k]
        return a if mask is None else dropout_forward(a, mask, self._buffers.dropped[k])

    @property
    def activations(self) -> list[Tensor]:
        """A_k ``(B, H)`` of each hidden layer, as ``forward`` left them; ``backward`` overwrites them."""
        return self._a

    def backward(self, dlogits: Tensor) -> Iterator[LayerDelta]:
        """The delta of each layer, from the last to the first; with dropout A is what the layer read.

        Args:
            dlogits: dLoss/dlogits ``(B, K)``, for what ``forward`` returned last.
        """
        layers, buffers, linear = self.layers, self._buffers, self._linear
        dz = dlogits.to(self.dtype).contiguous()
        for k in range(len(layers) - 1, 0, -1):
            da = linear.backward_input(dz, layers[k].weight, buffers.da[k - 1])
            yield LayerDelta(k, dz, self._inputs[k])
            dz = self._hidden_backward(k - 1, dropout_backward(da, self._masks[k]))
            if self._norms:
                dz = self._norm_backward(k - 1, dz)
        yield LayerDelta(0, dz, self._inputs[0])

    def _hidden_backward(self, k: int, da: Tensor) -> Tensor:
        """dZ_k, or dN_k with a norm, from dA_k."""
        return self._backward(da, (self._buffers.n or self._buffers.z)[k], self._a[k])

    def _norm_backward(self, k: int, dn: Tensor) -> Tensor:
        cache = self._norms[k]
        dz, dgamma, dbeta = norm_backward_(self.network.norms[k], dn.to(cache.z_hat.dtype), cache)
        self.norm_gradients[k] = dgamma, dbeta
        return dz if dz is dn else dn.copy_(dz)

    def write_gradient(self, delta: LayerDelta, *, add: bool = False) -> None:
        """Write dW_k, db_k, dγ_k and dβ_k to ``network.flat_grad``, or add them to what other minibatches left."""
        k, dz, a = delta
        layer, write = self._own_layers[k], Tensor.add_ if add else Tensor.copy_
        if self.is_mixed:
            dweight, dbias = self._copy_layers[k].dweight, torch.empty_like(layer.dbias)
            linear_backward(dz, a, dweight, dbias)
            write(layer.dweight, dweight)
            write(layer.dbias, dbias)
        else:
            beta = float(add)
            self._linear.backward(dz, a, layer.dweight, layer.dbias, LinearStep(1.0, beta, beta))
        if k < len(self._norms):
            norm, (dgamma, dbeta) = self.network.norms[k], self.norm_gradients[k]
            write(norm.dgamma, dgamma)
            write(norm.dbeta, dbeta)

    def update_in_product(self, delta: LayerDelta, step: LinearStep) -> None:
        """W_k ← beta W_k + alpha dW_k and b_k ← bias_beta b_k + alpha db_k.

        Since dW = dZᵀ A, this is one matrix product that adds to what is there: it saves writing dW and reading it. In
        mixed precision torch cannot add it to another dtype, and forms it first.
        """
        k, dz, a = delta
        layer = self._own_layers[k]
        if self.is_mixed:
            self.write_gradient(delta)
            layer.weight.mul_(step.beta).add_(layer.dweight, alpha=step.alpha)
            layer.bias.mul_(step.bias_beta).add_(layer.dbias, alpha=step.alpha)
        else:
            self._linear.backward(dz, a, layer.weight, layer.bias, step)

    def write_gradients(self, dlogits: Tensor, *, add: bool = False) -> float | None:
        """``write_gradient`` of all layers, for what ``forward`` returned last; None."""
        for delta in self.backward(dlogits):
            self.write_gradient(delta, add=add)
        return None

    def update_in_products(self, dlogits: Tensor, step: LinearStep, *, keep_gradient: bool = False) -> float | None:
        """``update_in_product`` of all layers, each after ``write_gradient`` if the gradient is kept; None."""
        for delta in self.backward(dlogits):
            if keep_gradient:
                self.write_gradient(delta)
            self.update_in_product(delta, step)
        return None

    def follow(self) -> None:
        """Let batch norm's running statistics follow the minibatch that ``forward`` saw last, in training."""
        if self._norms:
            for norm, cache in zip(self.network.norms, self._norms, strict=True):
                follow_(norm, cache)
