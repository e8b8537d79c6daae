"""The multilayer perceptron: linear layers and activations in turn, on one flat parameter and one flat gradient."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlp_lightning.nn.activations import ACTIVATIONS
from mlp_lightning.nn.initializers import INITIALIZERS
from mlp_lightning.nn.linear import linear_backward, linear_backward_input, linear_forward

Cache = list[tuple[Tensor, Tensor, Tensor]]


class Layer(NamedTuple):
    """Views into the flat tensors: weight and dweight ``(H, D)``, bias and dbias ``(H,)``."""

    weight: Tensor
    bias: Tensor
    dweight: Tensor
    dbias: Tensor


class MLP(nn.Module):
    """A multilayer perceptron with its backward pass written out, for whole minibatches.

    Forward, layer k computes Z_k = A_{k−1} W_kᵀ + b_k and A_k = f(Z_k), with A_0 = X; the last Z holds the logits.
    Backward, starting from the last dZ = dlogits, it computes dW_k = dZ_kᵀ A_{k−1}, db_k = Σ_i dZ_k,
    dA_{k−1} = dZ_k W_k and dZ_{k−1} = dA_{k−1} · f′(Z_{k−1}) (Rumelhart, Hinton & Williams 1986).

    ``flat`` ``(P,)`` is the only parameter: all weights in order, then all biases, so that a rule for weights alone is
    a rule on ``flat[:weight_numel]``. ``layers`` holds views into it and into ``flat_grad`` ``(P,)``, which
    ``backward`` overwrites. In a state dict the views appear as ``layers.0.weight``, ``layers.0.bias``, …, oriented as
    in ``torch.nn.Linear``.

    Args:
        sizes: the width of the input, of each hidden layer and of the output; at least two, each positive.
        activation: a key of ``ACTIVATIONS``, applied after every layer but the last.
        init: a key of ``INITIALIZERS``.
        generator: a CPU generator that the initialiser draws from; None for one seeded with 0.
        dtype: of the parameter; None for torch's default. The device is chosen with ``.to``.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        init: str = "he_normal",
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or any(size < 1 for size in sizes):
            raise ValueError(f"sizes must be two or more positive widths, got {list(sizes)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if init not in INITIALIZERS:
            raise ValueError(f"init must be one of {', '.join(INITIALIZERS)}, got {init!r}")
        self.sizes = tuple(sizes)
        self.activation = activation
        self._shapes = [(fan_out, fan_in) for fan_in, fan_out in itertools.pairwise(sizes)]
        self.weight_numel = sum(fan_out * fan_in for fan_out, fan_in in self._shapes)
        # On the CPU whatever the default device, as the generator is: a seed gives the same weights everywhere.
        flat = torch.zeros(self.weight_numel + sum(sizes[1:]), dtype=dtype, device="cpu")
        self.flat = nn.Parameter(flat, requires_grad=False)
        generator = generator if generator is not None else torch.Generator("cpu").manual_seed(0)
        for layer in self.layers:
            INITIALIZERS[init](layer.weight, layer.bias, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Cache]:
        """The logits ``(B, K)`` of inputs ``(B, D)``, and what ``backward`` needs: each layer's (A_{k−1}, Z_k, A_k)."""
        if x.ndim != 2 or x.shape[1] != self.sizes[0]:
            raise ValueError(f"x must be (B, {self.sizes[0]}), got {tuple(x.shape)}")
        f = ACTIVATIONS[self.activation].forward
        layers = self.layers
        cache: Cache = []
        a = x
        for layer in layers[:-1]:
            z = linear_forward(a, layer.weight, layer.bias)
            a_next = f(z)
            cache.append((a, z, a_next))
            a = a_next
        logits = linear_forward(a, layers[-1].weight, layers[-1].bias)
        cache.append((a, logits, logits))
        return logits, cache

    def backward(
        self, dlogits: Tensor, cache: Cache, *, input_gradient: bool = False, deltas: list[Tensor] | None = None
    ) -> Tensor | None:
        """Write every dW and db into ``flat_grad``; return dX ``(B, D)`` if ``input_gradient``, else None.

        Args:
            dlogits: dLoss/dlogits ``(B, K)``, from the loss's backward pass.
            cache: what ``forward`` returned for the same minibatch.
            input_gradient: whether to spend the further matrix product that dX costs.
            deltas: a list that gets every dZ_k ``(B, H)``, from the last layer to the first.

        Raises:
            ValueError: ``dlogits`` has another shape than the logits.
        """
        # A product of another shape would resize the views it is written into, over their neighbours in flat_grad.
        if dlogits.shape != cache[-1][2].shape:
            raise ValueError(f"dlogits must be {tuple(cache[-1][2].shape)}, got {tuple(dlogits.shape)}")
        f_backward = ACTIVATIONS[self.activation].backward
        layers = self.layers
        dz = dlogits
        for k in range(len(layers) - 1, 0, -1):
            a_in, z_in = cache[k][0], cache[k - 1][1]
            linear_backward(dz, a_in, layers[k].dweight, layers[k].dbias)
            if deltas is not None:
                deltas.append(dz)
            dz = f_backward(linear_backward_input(dz, layers[k].weight), z_in, a_in)
        linear_backward(dz, cache[0][0], layers[0].dweight, layers[0].dbias)
        if deltas is not None:
            deltas.append(dz)
        return linear_backward_input(dz, layers[0].weight) if input_gradient else None

    @property
    def flat_grad(self) -> Tensor:
        """The gradient of ``flat``, ``(P,)``, as the last ``backward`` left it."""
        return self._flat_grad_and_layers()[0]

    @property
    def layers(self) -> list[Layer]:
        """Views of each layer's parameters and gradients."""
        return self._flat_grad_and_layers()[1]

    def _flat_grad_and_layers(self) -> tuple[Tensor, list[Layer]]:
        # ``.to``, ``.double`` and Lightning replace the storage of ``flat``: the views follow it by being built again.
        place = (self.flat.data_ptr(), self.flat.dtype)
        views = self.__dict__.get("_views")
        if views is None or views[0] != place:
            flat = self.flat.detach()
            # Made under inference mode (a validation that comes first), the gradient could not be written in training.
            with torch.inference_mode(False):
                flat_grad = torch.zeros_like(flat)
            self.__dict__["_views"] = views = (place, flat_grad, self.layers_on(flat, flat_grad))
        return views[1], views[2]

    def layers_on(self, flat: Tensor, flat_grad: Tensor) -> list[Layer]:
        """Views of each layer into two tensors ``(P,)`` laid out as ``self.flat``, whatever their dtype."""
        return [Layer(*p, *g) for p, g in zip(self._split(flat), self._split(flat_grad), strict=True)]

    def _split(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views (W_k, b_k) of a tensor laid out as ``flat``."""
        weights, biases = flat.split([self.weight_numel, flat.numel() - self.weight_numel])
        return [
            (weight.view(shape), bias)
            for weight, bias, shape in zip(
                weights.split([fan_out * fan_in for fan_out, fan_in in self._shapes]),
                biases.split([fan_out for fan_out, _ in self._shapes]),
                self._shapes,
                strict=True,
            )
        ]

    def _named_views(self) -> dict[str, Tensor]:
        named = {}
        for k, layer in enumerate(self.layers):
            named[f"layers.{k}.weight"] = layer.weight
            named[f"layers.{k}.bias"] = layer.bias
        return named

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: view for name, view in self._named_views().items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        named = {prefix + name: view for name, view in self._named_views().items()}
        for key, view in named.items():
            value = state_dict.get(key)
            if value is None:
                missing_keys.append(key)
            elif value.shape != view.shape:
                error_msgs.append(f"size mismatch for {key}: {tuple(value.shape)} given, {tuple(view.shape)} needed")
            else:
                # Detached, lest a value that tracks gradients makes the view do so too.
                view.copy_(value.detach())
        unexpected_keys.extend(key for key in state_dict if key.startswith(prefix) and key not in named)

    def __getstate__(self) -> dict[str, Any]:
        # Views belong to this instance's storage: a copy or an unpickled network builds its own.
        return {name: value for name, value in self.__dict__.items() if name != "_views"}
