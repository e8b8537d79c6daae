"""The layers of a walk: what each computes on the way forward and on the way back."""

from collections.abc import Sequence

from torch import Tensor

from mlp_lightning.commands.explain.norm import (
    dropout_backward_step,
    dropout_step,
    input_name,
    norm_backward_steps,
    norm_steps,
)
from mlp_lightning.commands.explain.step import Step, first_line, moved, shape, source_of, subscript
from mlp_lightning.data.batches import Batch
from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.nn.linear import linear_backward, linear_backward_input, linear_forward
from mlp_lightning.nn.mlp import Cache


def forward_steps(
    network: MLP, x: Tensor, cache: Cache, sample: int, image_shape: tuple[int, int] | None, classes: tuple[str, ...]
) -> list[Step]:
    """X, then Z, N and A of every layer and what dropout leaves of it, from what ``MLP.forward`` left in ``cache``."""
    steps = [
        Step(
            phase="forward",
            name="X",
            formula="X = the samples of the minibatch, one a row",
            shapes=shape(x),
            value=x,
            source=source_of(Batch),
            about=f"row {sample}",
            detail=x[sample] if image_shape is None else x[sample].view(image_shape),
            view="heat" if image_shape is None else "image",
            in_overview=True,
        )
    ]
    for k, ((a_in, n, a), layer) in enumerate(zip(cache, network.layers, strict=True), start=1):
        is_last, i = k == len(cache), subscript(k)
        steps += dropout_step(cache, k, sample)
        product = f"Z{i} = {input_name(cache, k)} W{i}ᵀ + b{i}"
        z = n if is_last or not network.norms else linear_forward(a_in, layer.weight, layer.bias)
        weight = layer.weight.t()
        steps.append(
            Step(
                phase="forward",
                name="logits" if is_last else f"Z{i}",
                formula=f"logits = {product}" if is_last else product,
                shapes=f"{shape(a_in)} × {shape(weight)} + {shape(layer.bias)} → {shape(z)}",
                value=z,
                source=source_of(linear_forward),
                multiply_adds=a_in.numel() * len(layer.bias),
                bytes=moved(a_in, weight, layer.bias, z),
                about=f"row {sample}",
                detail=z[sample],
                view="bars" if is_last else "heat",
                labels=classes if is_last else (),
            )
        )
        if not is_last:
            steps += norm_steps(network, cache, k, z, sample)
            f = ACTIVATIONS[network.activation].forward
            steps.append(
                Step(
                    phase="forward",
                    name=f"A{i}",
                    formula=f"A{i} = {network.activation}({_argument(network)}{i})",
                    shapes=f"{shape(n)} → {shape(a)}",
                    value=a,
                    source=source_of(f),
                    bytes=moved(n, a),
                    numbers=first_line(f),
                    about=f"row {sample}",
                    detail=a[sample],
                    view="heat",
                    in_overview=True,
                )
            )
    return steps


def backward_steps(
    network: MLP, cache: Cache, deltas: Sequence[Tensor], norm_deltas: Sequence[Tensor], sample: int
) -> list[Step]:
    """dW, db, dA, dN and dZ, last layer to first; the deltas are the dZ and dN of ``MLP.backward``, in layer order."""
    steps = []
    for k in range(len(cache), 0, -1):
        layer, dz, a_in = network.layers[k - 1], deltas[k - 1], cache[k - 1][0]
        i, j = subscript(k), subscript(k - 1)
        steps += [
            Step(
                phase="backward",
                name=f"dW{i}",
                formula=f"dW{i} = dZ{i}ᵀ {input_name(cache, k)}",
                shapes=f"{shape(dz.t())} × {shape(a_in)} → {shape(layer.dweight)}",
                # Copies: clipping works on the gradient in place.
                value=layer.dweight.clone(),
                source=source_of(linear_backward),
                multiply_adds=dz.numel() * a_in.shape[1],
                bytes=moved(dz, a_in, layer.dweight),
            ),
            Step(
                phase="backward",
                name=f"db{i}",
                formula=f"db{i} = Σᵢ dZ{i}",
                shapes=f"Σ over rows of {shape(dz)} → {shape(layer.dbias)}",
                value=layer.dbias.clone(),
                source=source_of(linear_backward),
                bytes=moved(dz, layer.dbias),
            ),
        ]
        if k == 1:
            break
        n_in, mask, symbol = cache[k - 2][1], cache.masks[k - 1], _argument(network)
        delta = norm_deltas[k - 2] if network.norms else deltas[k - 2]
        read = "A" if mask is None else "D"
        da = linear_backward_input(dz, layer.weight)
        f_backward = ACTIVATIONS[network.activation].backward
        steps += [
            Step(
                phase="backward",
                name=f"d{read}{j}",
                formula=f"d{read}{j} = dZ{i} W{i}",
                shapes=f"{shape(dz)} × {shape(layer.weight)} → {shape(da)}",
                value=da,
                source=source_of(linear_backward_input),
                multiply_adds=dz.numel() * layer.weight.shape[1],
                bytes=moved(dz, layer.weight, da),
                about=f"row {sample}",
                detail=da[sample],
                view="heat",
            ),
            *([] if mask is None else [dropout_backward_step(mask, da, k - 1, sample)]),
            Step(
                phase="backward",
                name=f"d{symbol}{j}",
                formula=f"d{symbol}{j} = dA{j} · {network.activation}′({symbol}{j})",
                shapes=f"{shape(da)} · {shape(n_in)} → {shape(delta)}",
                value=delta,
                source=source_of(f_backward),
                bytes=moved(da, n_in, delta),
                numbers=first_line(f_backward),
                about=f"row {sample}",
                detail=delta[sample],
                view="heat",
            ),
        ]
        if network.norms:
            steps += norm_backward_steps(network, cache, k - 1, delta, deltas[k - 2], sample)
    return steps


def _argument(network: MLP) -> str:
    """The symbol of what activations read."""
    return "N" if network.norms else "Z"
