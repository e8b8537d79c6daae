"""Virtual adversarial training in a walk: the direction, the distance that it moves the outputs, and the gradient."""

import torch
from torch import Tensor

from mlp_lightning.commands.explain.step import Step, View, moved, number, shape, source_of, subscript
from mlp_lightning.engines.adversary import VirtualAdversary, kl_backward, kl_forward, log_probabilities
from mlp_lightning.nn import MLP
from mlp_lightning.nn.draws import Draws
from mlp_lightning.nn.losses import Reduction
from mlp_lightning.nn.training_pass import TrainingPass


def adversary_steps(
    network: MLP,
    adversary: VirtualAdversary,
    draws: Draws,
    x: Tensor,
    logits: Tensor,
    training: TrainingPass,
    reduction: Reduction,
    sample: int,
    image_shape: tuple[int, int] | None,
    classes: tuple[str, ...],
) -> list[Step]:
    """The records of the term, whose gradient is added to what ``network.flat_grad`` holds.

    Args:
        network: with the gradient of the cross-entropy.
        adversary: on a network of the same weights.
        draws: begun at the step.
        x: ``(B, D)``.
        logits: those of x, ``(B, K)``.
        training: that of the pass that gave them.
        reduction: of the loss.
        sample: the row to show.
        image_shape: (height, width) if the D entries of a sample are an image.
        classes: K names.
    """
    start = draws.normal(x.shape[1])
    d = torch.nn.functional.normalize(start.to(x.dtype))
    kl = adversary.forward(x, logits, start, training)
    r, x_r = adversary.r, adversary.x_r
    logits_r, cache = network(x_r, training)
    log_p, log_q = log_probabilities(logits), log_probabilities(logits_r)
    scale = adversary.weight / (len(x) if reduction == "mean" else 1)
    dlogits = kl_backward(log_p, log_q).to(logits.dtype) * scale
    p, p_r = log_p.exp(), log_q.exp()

    clean = network.flat_grad.clone()
    network.backward(dlogits, cache)
    gradient = network.flat_grad.add_(clean)

    # Forward and to dZ of every layer but the first, twice; once to x, and once to the weights.
    products = len(x) * network.weight_numel
    first = len(x) * network.sizes[0] * network.sizes[1]
    eps, xi, weight = number(adversary.eps), number(adversary.xi), number(adversary.weight)
    own = number(float(kl_forward(log_p[sample : sample + 1], log_q[sample : sample + 1])))
    says, says_r = (classes[int(outputs[sample].argmax())] for outputs in (p, p_r))
    source, count = source_of(VirtualAdversary), adversary.iterations
    power = "" if count == 1 else f",  {count} times over, each from the last direction"
    front = "λ/B" if reduction == "mean" else "λ"

    def row(
        name: str, formula: str, operands: tuple[Tensor, ...], value: Tensor, numbers: str = "", cost: int = 0
    ) -> Step:
        is_input, is_row = name in ("d", "R", "X_r"), value.ndim == 2
        view: View = "heat" if is_input else "bars" if is_row else "none"
        detail = value[sample] if is_row else None
        if is_input and image_shape is not None:
            # Signed entries make a map of heat, pixels a picture.
            view = "image" if name == "X_r" else view
            detail = value[sample].view(image_shape if name == "X_r" else (1, *image_shape))
        return Step(
            phase="adversary",
            name=name,
            formula=formula,
            shapes=f"{', '.join(map(shape, operands))} → {shape(value)}",
            value=value,
            source=source,
            multiply_adds=cost,
            bytes=moved(*operands, value),
            numbers=numbers,
            about=f"row {sample}" if is_row else "",
            detail=detail,
            view=view,
            labels=classes if view == "bars" else (),
        )

    return [
        row("d", "d = a random direction for each sample, of length 1", (), d),
        row(
            "R",
            f"R = ε g / ‖g‖,  g = ∇D(ξ d),  D(r) = KL(P ‖ softmax(logits(X + r))){power}",
            (x, d),
            r.clone(),
            f"ε = {eps}, ξ = {xi}",
            count * 2 * products,
        ),
        row("X_r", "X_r = X + R", (x, r), x_r.clone()),
        row(
            "P_r", "P_r = softmax(logits at X_r)", (x_r,), p_r, f"the network says {says_r}, and {says} at X", products
        ),
        row("D", "D = Σᵢⱼ P[i, j] (log P[i, j] − log P_r[i, j])", (p, p_r), kl, f"the sample's own is {own}"),
        row(
            "dlogits_r",
            f"dlogits_r = {front} · (P_r − P)",
            (p, p_r),
            dlogits,
            f"λ = {weight}, {front} = {number(scale)}",
        ),
        row(
            "dθ",
            f"dθ ← dθ + the backward pass from dZ{subscript(len(network.layers))} = dlogits_r at X_r",
            (dlogits,),
            gradient.clone(),
            cost=2 * products - first,
        ),
    ]
