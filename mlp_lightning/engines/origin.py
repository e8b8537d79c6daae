"""Where a step that is not finite went wrong first, and the likely cause: a slow look, when there is time for it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.passes import Passes
from mlp_lightning.nn import MLP
from mlp_lightning.nn.training_pass import TrainingPass


class Origin(NamedTuple):
    """The first tensor of a step that is not finite; origins are ordered as a step computes."""

    place: tuple[int, int]
    what: str
    cause: str

    def seen_after(self, steps: int) -> "Origin":
        """The same, where other steps followed before it was looked for."""
        return self._replace(what=f"{self.what}, as seen after step {steps}")


def origin_in_step(
    passes: Passes, batch: Batch, training: TrainingPass, loss_sum: float | Tensor, lr: float | None
) -> Origin | None:
    """Look at the input, layer by layer at weights and outputs, and at the loss.

    Args:
        passes: which make the forward pass once more, with the weights from before the step.
        batch: what the step trains on.
        training: the masks of its dropout.
        loss_sum: the loss.
        lr: η of the steps before; None at the first one.
    """
    # On every process, whatever it finds: batch norm waits for all of them.
    logits = passes.forward(batch.x, training)
    wrong = ~batch.x.isfinite()
    if bool(wrong.any()):
        row, column = (int(k) for k in wrong.nonzero()[0])
        place = f"sample {batch.first + row} of the minibatch, column {column}"
        return Origin((0, 0), f"the input has {float(batch.x[row, column])} in {place}", "a fault in the data")
    for k, output in enumerate([*passes.activations, logits]):
        if not _weights_are_finite(passes.network, k):
            return Origin((1, k), f"the weights of layer {k} were not finite before it", _too_large(lr))
        if not _is_finite(output):
            return Origin((1, k), f"the output of layer {k} overflows", _too_large(lr, passes.dtype))
    return None if math.isfinite(float(loss_sum)) else Origin((2, 0), f"the loss is {float(loss_sum)}", _too_large(lr))


def origin_in_gradient(network: MLP, flat: Tensor, lr: float | None) -> Origin | None:
    """Look at the layers from the last to the first, as the backward pass comes to them.

    Args:
        network: whose layout ``flat`` has.
        flat: the gradient ``(P,)``, or the parameter that an update has added it to.
        lr: η of the steps before; None at the first one.
    """
    for k, layer in reversed(list(enumerate(network.layers_on(flat, flat)))):
        if not _is_finite(layer.weight, layer.bias):
            return Origin((3, -k), f"the gradient of layer {k} overflows", _too_large(lr))
    return None if _is_finite(flat) else Origin((4, 0), "the gradient of a norm overflows", _too_large(lr))


def origin_in_weights(network: MLP, lr: float | None, finite_after: int = 0) -> Origin | None:
    """Look at the weights, from the first layer to the last.

    Args:
        network: whose weights they are.
        lr: η of the steps before; None before the first one.
        finite_after: the number of the last step after which all were finite; 0 for none.
    """
    since = f", but were after step {finite_after}" if finite_after else ""
    for k in range(len(network.layers)):
        if not _weights_are_finite(network, k):
            when = "were not finite before it" if lr is None else f"are not finite after it{since}"
            return Origin((5, k), f"the weights of layer {k} {when}", _too_large(lr))
    return None


def origin_unknown(lr: float | None) -> Origin:
    """Where nothing is left to be seen."""
    return Origin((6, 0), "its loss or gradient", _too_large(lr))


def _weights_are_finite(network: MLP, k: int) -> bool:
    layer = network.layers[k]
    norm = (network.norms[k].gamma, network.norms[k].beta) if k < len(network.norms) else ()
    return _is_finite(layer.weight, layer.bias, *norm)


def _is_finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _too_large(lr: float | None, dtype: torch.dtype = torch.float32) -> str:
    if dtype == torch.float16:
        return "numbers above 65504, the most that float16 holds; trainer.precision bf16-mixed has float32's range"
    if lr is None:
        return "inputs or first weights that are too large; scale the inputs to about 1, or choose another model.init"
    return f"a learning rate that is too large, {lr:.3g} at that step; choose a smaller model.lr or set model.clip_norm"
