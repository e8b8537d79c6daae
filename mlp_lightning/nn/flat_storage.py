"""The storage of a network: one flat parameter, one flat gradient, and views of every layer's share in them."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlp_lightning.nn.norm import Norm, NormName


class Layer(NamedTuple):
    """Views into the flat tensors: weight and dweight ``(H, D)``, bias and dbias ``(H,)``."""

    weight: Tensor
    bias: Tensor
    dweight: Tensor
    dbias: Tensor


class FlatStorage(nn.Module):
    """Parameters of linear layers, and of norms between them, in one tensor.

    ``flat`` ``(P,)`` is the only parameter: all weights in order, then all biases, then all γ, then all β, so that a
    rule for weights alone is a rule on ``flat[:weight_numel]``. ``layers`` and ``norms`` hold views into it and into
    ``flat_grad`` ``(P,)``. Batch norm's running statistics, means and variances, are the buffer ``running``
    ``(2, Σ H)``, which is None without batch norm.

    In a state dict the views appear as ``layers.0.weight``, ``layers.0.bias``, …, oriented as in ``torch.nn.Linear``,
    and as ``norms.0.weight`` (γ), ``norms.0.bias`` (β), ``norms.0.running_mean``, ``norms.0.running_var``, …, as in
    ``torch.nn.BatchNorm1d`` and ``torch.nn.LayerNorm``.

    Args:
        sizes: the width of the input, of each hidden layer and of the output.
        norm: ``none``, ``batch`` or ``layer``, of every layer but the last.
        dtype: of the parameter; None for torch's default.
    """

    running: Tensor | None

    def __init__(self, sizes: Sequence[int], norm: NormName, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.norm = norm
        self._shapes = [(fan_out, fan_in) for fan_in, fan_out in itertools.pairwise(sizes)]
        self._norm_widths = [] if norm == "none" else list(sizes[1:-1])
        self.weight_numel = sum(fan_out * fan_in for fan_out, fan_in in self._shapes)
        n_units, n_normed = sum(sizes[1:]), sum(self._norm_widths)
        # On the CPU whatever the default device, as the generator is: a seed gives the same weights everywhere.
        flat = torch.zeros(self.weight_numel + n_units + 2 * n_normed, dtype=dtype, device="cpu")
        flat[self.weight_numel + n_units :][:n_normed] = 1
        self.flat = nn.Parameter(flat, requires_grad=False)
        running = torch.zeros(2, n_normed, dtype=dtype, device="cpu")
        running[1] = 1
        self.register_buffer("running", running if norm == "batch" and n_normed else None)

    @property
    def flat_grad(self) -> Tensor:
        """The gradient of ``flat``, ``(P,)``, as the last ``backward`` left it."""
        return self._flat_grad_and_views()[0]

    @property
    def layers(self) -> list[Layer]:
        """Views of each layer's parameters and gradients."""
        return self._flat_grad_and_views()[1]

    @property
    def norms(self) -> list[Norm]:
        """Views of each norm's parameters, gradients and running statistics, one a hidden layer; empty without norm."""
        return self._flat_grad_and_views()[2]

    def _flat_grad_and_views(self) -> tuple[Tensor, list[Layer], list[Norm]]:
        # ``.to``, ``.double`` and Lightning replace the storage of ``flat``: the views follow it by being built again.
        running = self.running if self.norm == "batch" else None
        place = (self.flat.data_ptr(), self.flat.dtype, None if running is None else running.data_ptr())
        views = self.__dict__.get("_views")
        if views is None or views[0] != place:
            flat = self.flat.detach()
            # Made under inference mode (a validation that comes first), the gradient could not be written in training.
            with torch.inference_mode(False):
                flat_grad = torch.zeros_like(flat)
            views = (place, flat_grad, self.layers_on(flat, flat_grad), self._norms_on(flat, flat_grad))
            self.__dict__["_views"] = views
        return views[1], views[2], views[3]

    def layers_on(self, flat: Tensor, flat_grad: Tensor) -> list[Layer]:
        """Views of each layer into two tensors ``(P,)`` laid out as ``self.flat``, whatever their dtype."""
        parameters, gradients = (
            [
                (weight.view(shape), bias)
                for weight, bias, shape in zip(*self._split(tensor)[:2], self._shapes, strict=True)
            ]
            for tensor in (flat, flat_grad)
        )
        return [Layer(*p, *g) for p, g in zip(parameters, gradients, strict=True)]

    def _norms_on(self, flat: Tensor, flat_grad: Tensor) -> list[Norm]:
        views = [*self._split(flat)[2:], *self._split(flat_grad)[2:]]
        if self.running is not None:
            views += [statistic.split(self._norm_widths) for statistic in self.running]
        return [Norm(*parts) for parts in zip(*views, strict=True)]

    def _split(self, flat: Tensor) -> list[Sequence[Tensor]]:
        """Views of every W, b, γ and β of a tensor laid out as ``flat``."""
        kinds = [
            [fan_out * fan_in for fan_out, fan_in in self._shapes],
            [fan_out for fan_out, _ in self._shapes],
            self._norm_widths,
            self._norm_widths,
        ]
        parts = flat.split([sum(kind) for kind in kinds])
        return [part.split(kind) if kind else () for part, kind in zip(parts, kinds, strict=True)]

    def _named_views(self) -> dict[str, Tensor]:
        named = {}
        for k, layer in enumerate(self.layers):
            named[f"layers.{k}.weight"] = layer.weight
            named[f"layers.{k}.bias"] = layer.bias
        for k, norm in enumerate(self.norms):
            named[f"norms.{k}.weight"] = norm.gamma
            named[f"norms.{k}.bias"] = norm.beta
            if norm.running_mean is not None and norm.running_var is not None:
                named[f"norms.{k}.running_mean"] = norm.running_mean
                named[f"norms.{k}.running_var"] = norm.running_var
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
