"""The update of a walk: clipping, schedule and rule with their numbers, then what has become of the weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.commands.explain.average import average_steps
from mlp_lightning.commands.explain.constraints import constraint_steps
from mlp_lightning.commands.explain.rules import rule_rows
from mlp_lightning.commands.explain.step import Step, moved, number, shape, source_of, subscript
from mlp_lightning.nn import MLP
from mlp_lightning.optim.clipping import clip_norm_, clip_value_
from mlp_lightning.optim.schedules import constant

# So many units of the first layer are drawn as images: those whose weights changed most.
UNITS_SHOWN = 54


def update_steps(
    network: MLP,
    optimizer: torch.optim.Optimizer,
    options: Mapping[str, Any],
    lr_factor: float,
    image_shape: tuple[int, int] | None,
) -> list[Step]:
    """Take the first step with the gradient that ``network.flat_grad`` holds, and record it.

    Args:
        network: takes the step.
        optimizer: on ``network.flat``, without state.
        options: the module's: clip_norm, clip_value, lr, schedule, warmup_epochs, l1, max_norm.
        lr_factor: the schedule's value at this step.
        image_shape: (height, width) if a row of the first weight matrix is an image.
    """
    depth = len(network.layers)
    last, gradient = subscript(depth), network.flat_grad
    # Copies: clipping and the rule work in place.
    before = [value.clone() for _, _, value in _parameters(network)]
    old_weight = network.layers[-1].weight.clone()
    theta = network.flat.detach().clone()
    blocks = f"dW₁, …, dW{last}, db₁, …, db{last}" if depth > 1 else "dW₁, db₁"
    if network.norms:
        blocks += (
            ", dγ₁, dβ₁" if depth == 2 else f", dγ₁, …, dγ{subscript(depth - 1)}, dβ₁, …, dβ{subscript(depth - 1)}"
        )
    steps = [
        Step(
            phase="update",
            name="g",
            formula=f"g = ({blocks}), the gradient of θ, all in one",
            shapes=shape(gradient),
            value=gradient.clone(),
            source=source_of(MLP),
        ),
        *_clipping(gradient, options["clip_norm"], options["clip_value"]),
    ]

    lr = options["lr"] * lr_factor
    schedule = f"{options['schedule']} after a linear rise" if options["warmup_epochs"] else options["schedule"]
    steps.append(
        Step(
            phase="update",
            name="η",
            formula=f"η = lr · schedule(t),  {schedule}, t = 0",
            shapes="",
            value=torch.tensor(lr, dtype=torch.float64),
            source=source_of(constant),
            numbers=f"{number(options['lr'])} · {number(lr_factor)} = {number(lr)}",
        )
    )
    optimizer.param_groups[0]["lr"] = lr
    network.flat.grad = gradient
    optimizer.step()
    change = network.flat.detach() - theta
    for row in rule_rows(optimizer, theta, gradient):
        value = change if row.value is None else row.value
        steps.append(
            Step(
                phase="update",
                name="Δθ" if row.value is None else row.name,
                formula=row.formula,
                shapes=f"{', '.join(map(shape, row.operands))} → {shape(value)}",
                value=value,
                source=source_of(type(optimizer)),
                bytes=moved(*row.operands, value),
                numbers=row.numbers,
            )
        )
    steps += constraint_steps(network, lr, options["l1"], options["max_norm"])
    steps += average_steps(network.flat.detach(), theta, options)
    return [*steps, _one_weight(network, old_weight, depth), *_changes(network, before, image_shape)]


def _clipping(gradient: Tensor, clip_norm: float | None, clip_value: float | None) -> list[Step]:
    """Clip in place, as training does: first the norm, then the values."""
    steps = []
    if clip_norm is not None:
        norm = float(clip_norm_(gradient, clip_norm))
        new_norm = float(torch.linalg.vector_norm(gradient))
        steps.append(
            Step(
                phase="update",
                name="g",
                formula="g ← g · min(1, c / (‖g‖ + 10⁻⁶))",
                shapes=f"{shape(gradient)} → {shape(gradient)}",
                value=gradient.clone(),
                source=source_of(clip_norm_),
                # Once for the norm, once to scale.
                bytes=3 * moved(gradient),
                numbers=f"c = {number(clip_norm)}:  ‖g‖ = {number(norm)} → {number(new_norm)}",
            )
        )
    if clip_value is not None:
        outside = int((gradient.abs() > clip_value).sum())
        clip_value_(gradient, clip_value)
        steps.append(
            Step(
                phase="update",
                name="g",
                formula="g ← min(max(g, −c), c)",
                shapes=f"{shape(gradient)} → {shape(gradient)}",
                value=gradient.clone(),
                source=source_of(clip_value_),
                bytes=2 * moved(gradient),
                numbers=f"c = {number(clip_value)}:  {outside:,} of {gradient.numel():,} entries were beyond",
            )
        )
    return steps


def _one_weight(network: MLP, old: Tensor, depth: int) -> Step:
    """The weight of the last layer with the largest gradient, before and after."""
    layer, k = network.layers[-1], subscript(depth)
    row, column = divmod(int(layer.dweight.abs().argmax()), layer.dweight.shape[1])
    was, now = old[row, column], layer.weight[row, column]
    g = number(float(layer.dweight[row, column]))
    return Step(
        phase="update",
        name=f"W{k}[{row}, {column}]",
        formula=f"W{k}[{row}, {column}], the weight of layer {depth} with the largest gradient",
        shapes="",
        value=now.clone(),
        source=source_of(MLP),
        numbers=f"{number(float(was))} → {number(float(now))}, a change of {number(float(now - was))}; its g = {g}",
    )


def _parameters(network: MLP) -> list[tuple[str, int, Tensor]]:
    """Symbol, number and value of each layer's W and b, and of each norm's γ and β."""
    found = []
    for k, layer in enumerate(network.layers, start=1):
        found += [("W", k, layer.weight), ("b", k, layer.bias)]
        if k <= len(network.norms):
            found += [("γ", k, network.norms[k - 1].gamma), ("β", k, network.norms[k - 1].beta)]
    return found


def _changes(network: MLP, before: list[Tensor], image_shape: tuple[int, int] | None) -> list[Step]:
    """ΔW and Δb of every layer, Δγ and Δβ of every norm."""
    steps = []
    for (symbol, k, new), old in zip(_parameters(network), before, strict=True):
        i, change = subscript(k), new - old
        size, length = (float(torch.linalg.vector_norm(tensor)) for tensor in (old, change))
        ratio = f"‖Δ{symbol}{i}‖ / ‖{symbol}{i}‖ = {number(length / size)}" if size else ""
        detail, about = (change if symbol == "W" else None), ""
        if symbol == "W" and k == 1 and image_shape is not None:
            most = torch.linalg.vector_norm(change, dim=1).topk(min(UNITS_SHOWN, len(change))).indices
            detail = change[most].view(-1, *image_shape)
            about = f"the {len(most)} units that changed most"
        steps.append(
            Step(
                phase="update",
                name=f"Δ{symbol}{i}",
                formula=f"Δ{symbol}{i} = {symbol}{i}(t + 1) − {symbol}{i}(t)",
                shapes=f"{shape(new)} − {shape(old)} → {shape(change)}",
                value=change,
                source=source_of(MLP),
                numbers=ratio,
                about=about,
                detail=detail,
                view="heat" if symbol == "W" else "none",
            )
        )
    return steps
