"""The loss of a walk: its value and its gradient, as formulas of the configured reduction, smoothing and weights."""

from dataclasses import replace

from torch import Tensor

from mlp_lightning.commands.explain.step import Step, moved, number, shape, source_of, subscript
from mlp_lightning.nn import SoftmaxCrossEntropy
from mlp_lightning.nn.losses import Loss, Reduction


def loss_steps(
    loss: Loss, reduction: Reduction, depth: int, logits: Tensor, y: Tensor, sample: int, classes: tuple[str, ...]
) -> tuple[list[Step], Tensor]:
    """The records of the loss's forward and backward pass, and dlogits ``(B, K)``.

    Args:
        loss: with reduction ``"sum"``, as the module has it; the mean's scale goes in as ``dloss``.
        reduction: the configured one.
        depth: how many layers the network has, which gives dlogits its second name.
        logits: ``(B, K)``.
        y: targets ``(B,)``, or after mixup their probabilities ``(B, K)``.
        sample: the row to show.
        classes: K names.
    """
    loss_sum, cache = loss.forward(logits, y)
    normalizer = loss.normalizer(logits, y)
    scale = 1.0 if reduction == "sum" else 1.0 / normalizer
    dlogits = loss.backward(cache, scale)
    own_loss, _ = loss.forward(logits[sample : sample + 1], y[sample : sample + 1])
    formulas = _formulas(loss, reduction, depth, is_mixed=y.ndim == 2)
    target, predicted = int(y[sample].argmax() if y.ndim == 2 else y[sample]), int(logits[sample].argmax())

    def row(name: str, value: Tensor, operands: tuple[Tensor, ...], numbers: str) -> Step:
        per_sample = value.ndim == 2
        return Step(
            phase="backward" if name == "dlogits" else "loss",
            name=name,
            formula=f"{name} = {formulas[name]}",
            shapes=f"{', '.join(map(shape, operands))} → {shape(value)}",
            value=value,
            source=source_of(type(loss)),
            bytes=moved(*operands, value),
            numbers=numbers,
            about=f"row {sample}" if per_sample else "",
            detail=value[sample] if per_sample else None,
            view="bars" if per_sample else "none",
            labels=classes if per_sample else (),
            marked=target if per_sample else None,
            in_overview=name in ("P", "E"),
        )

    says = f"the sample is of class {_of_classes(y[sample], classes)}, the network says {classes[predicted]}"
    used: tuple[Tensor, ...]
    # What the forward pass leaves in the cache: log-probabilities, or the differences from the targets.
    if isinstance(loss, SoftmaxCrossEntropy):
        outputs = cache[0].exp()
        first, used = row("P", outputs, (logits,), says), (outputs, y)
    else:
        first, used = row("E", cache[0], (logits, y), says), (cache[0],)
    divided = f"{formulas['divisor']} = {number(float(normalizer))}, its reciprocal is {number(float(scale))}"
    steps = [
        first,
        row("L", loss_sum * scale, used, f"the sample's own loss is {number(float(own_loss))}"),
        row("dlogits", dlogits, used, divided if reduction == "mean" else "a sum: nothing divides it"),
    ]
    return steps, dlogits


def afterwards_steps(
    loss: Loss, reduction: Reduction, before: Tensor, after: Tensor, y: Tensor, sample: int, classes: tuple[str, ...]
) -> list[Step]:
    """What the step has changed for the same minibatch: the outputs and the loss, from logits ``before`` and ``after``.

    They cost nothing, since training does not compute them.
    """
    was = loss_steps(loss, reduction, 0, before, y, sample, classes)[0][1]
    steps = []
    for step in loss_steps(loss, reduction, 0, after, y, sample, classes)[0][:2]:
        numbers = f"{number(float(was.value))} → {number(float(step.value))}" if step.name == "L" else step.numbers
        formula = f"{step.name} again, with the new weights"
        steps.append(replace(step, phase="afterwards", formula=formula, numbers=numbers, bytes=0, in_overview=False))
    return steps


def _of_classes(target: Tensor, classes: tuple[str, ...]) -> str:
    """The name of a target's class, or its probabilities one by one."""
    if not target.ndim:
        return classes[int(target)]
    return " and ".join(f"{classes[k]} by {number(float(target[k]))}" for k in target.nonzero().flatten().tolist())


def _formulas(loss: Loss, reduction: Reduction, depth: int, *, is_mixed: bool) -> dict[str, str]:
    """Right-hand sides by name, and under ``divisor`` what the mean divides by."""
    is_mean, dz = reduction == "mean", f"dZ{subscript(depth)}"
    # Mixup's targets are the rows of a matrix Y already.
    y = "Y" if is_mixed else "onehot(y)"
    if not isinstance(loss, SoftmaxCrossEntropy):
        front, factor = ("1/(B·K) · ", "2/(B·K)") if is_mean else ("", "2")
        return {"E": f"logits − {y}", "L": f"{front}Σ E²", "dlogits": f"{dz} = {factor} · E", "divisor": "B·K"}
    weighted, epsilon = loss.class_weights is not None, loss.label_smoothing
    value, gradient = "Σᵢ log P[i, yᵢ]", "softmax(logits) − onehot(y)"
    if weighted or epsilon or is_mixed:
        share = number(epsilon)
        q = f"Q = (1 − {share}) · {y} + {share}/K" if epsilon else f"Q = {y}"
        value, gradient = f"Σᵢⱼ Q[i, j] log P[i, j],  {q}", "softmax(logits) − Q"
        if weighted:
            value, gradient = f"Σᵢⱼ w[j] Q[i, j] log P[i, j],  {q}", "(Σⱼ w[j] Q[·, j]) · softmax(logits) − w · Q"
    divisor = ("Σᵢⱼ w[j] Y[i, j]" if is_mixed else "Σᵢ w[yᵢ]") if weighted else "B"
    return {
        "P": "softmax(logits)",
        "L": f"−1/{divisor} · {value}" if is_mean else f"−{value}",
        "dlogits": f"{dz} = ({gradient}) · 1/{divisor}" if is_mean else f"{dz} = {gradient}",
        "divisor": divisor,
    }
