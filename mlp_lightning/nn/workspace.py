"""The MLP's forward and backward pass in memory that is kept between steps."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mlp_lightning.nn.in_place import IN_PLACE
from mlp_lightning.nn.linear import linear_backward, linear_backward_input, linear_forward
from mlp_lightning.nn.mlp import MLP


class Workspace:
    """The two passes of ``MLP`` without an allocation, for training steps.

    The formulas are those of ``MLP.forward`` and ``MLP.backward``, which stay the ones to read and to compare with.
    Here every matrix product is written into memory that the next step uses again, and activations and their
    derivatives are taken in place. The backward pass hands out each layer's (dZ, A) instead of deciding what becomes of
    them: a gradient, an update, or both.

    With a ``dtype`` of fewer bits than the parameter's this is mixed precision (Micikevicius et al. 2018): products are
    computed from copies in that dtype, made anew by each forward pass, and sum up in float32 before they are rounded to
    it; the weights proper, their gradients, the logits and the loss keep the parameter's dtype.

    ``layers`` are the network's, or views of their copies, as the last forward pass used them.

    Args:
        network: whose parameter the passes read; it must stay on its device.
        dtype: of the matrix products; None for the parameter's.
    """

    def __init__(self, network: MLP, dtype: torch.dtype | None = None) -> None:
        flat = network.flat.detach()
        self.network = network
        self.is_mixed = dtype is not None and dtype != flat.dtype
        self._dtype = dtype if dtype is not None else flat.dtype
        self._device = flat.device
        self._forward, self._backward = IN_PLACE[network.activation]
        self.layers = network.layers
        self._views: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self._memory: list[Tensor] = []
        if self.is_mixed:
            # Outside of inference mode, whose tensors could not be written in training.
            with torch.inference_mode(False):
                self._copy, self._copy_grad = (torch.zeros_like(flat, dtype=dtype) for _ in range(2))
            self._copy_layers = network.layers_on(self._copy, self._copy_grad)

    def forward(self, x: Tensor) -> Tensor:
        """The logits ``(B, K)`` of inputs ``(B, D)``, in the parameter's dtype; valid until the next call."""
        layers = self.layers = self.network.layers
        z, self._da = self._buffers(len(x))
        if self.is_mixed:
            layers = self.layers = self._copy_layers
            self._copy.copy_(self.network.flat)
            x = x.to(self._dtype)
        a = x
        self._z, self._a = z, [a]
        for layer, out in zip(layers[:-1], z, strict=False):
            a = self._forward(linear_forward(a, layer.weight, layer.bias, out))
            self._a.append(a)
        logits = linear_forward(a, layers[-1].weight, layers[-1].bias, z[-1])
        return logits.to(self.network.flat.dtype) if self.is_mixed else logits

    def backward(self, dlogits: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Hand out (k, dZ_k ``(B, H)``, A_{k−1} ``(B, D)``) for each layer k, from the last to the first.

        By the time a layer is handed out its weights have served: they may be changed. The tensors are valid until the
        next layer is asked for.

        Args:
            dlogits: dLoss/dlogits ``(B, K)``, for what ``forward`` returned last.
        """
        layers = self.layers
        dz = dlogits.to(self._dtype)
        for k in range(len(layers) - 1, 0, -1):
            da = linear_backward_input(dz, layers[k].weight, self._da[k - 1])
            yield k, dz, self._a[k]
            dz = self._backward(da, self._z[k - 1], self._a[k])
        yield 0, dz, self._a[0]

    def write_gradient(self, k: int, dz: Tensor, a: Tensor) -> None:
        """dW_k and db_k into ``network.flat_grad``, from what ``backward`` handed out for layer k."""
        layer = self.network.layers[k]
        if self.is_mixed:
            linear_backward(dz, a, self._copy_layers[k].dweight, layer.dbias)
            layer.dweight.copy_(self._copy_layers[k].dweight)
        else:
            linear_backward(dz, a, layer.dweight, layer.dbias)

    def _buffers(self, batch_size: int) -> tuple[list[Tensor], list[Tensor]]:
        """Every Z_k and, but for the last layer, dA_k: the first rows of memory that grows with the largest batch."""
        if batch_size not in self._views:
            widths = self.network.sizes[1:]
            if not self._memory or batch_size > len(self._memory[0]):
                self._views.clear()
                with torch.inference_mode(False):
                    self._memory = [
                        torch.empty(batch_size, width, dtype=self._dtype, device=self._device)
                        for width in (*widths, *widths[:-1])
                    ]
            rows = [memory[:batch_size] for memory in self._memory]
            self._views[batch_size] = rows[: len(widths)], rows[len(widths) :]
        return self._views[batch_size]
