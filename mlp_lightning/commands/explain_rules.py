"""The update rules as rows of formulas with numbers: what each does at its first step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.commands.explain_step import number
from mlp_lightning.optim import SGD, Adam, AdamNorm, AdamW, RMSprop, UpdateRule

State = dict[str, Any]


class Row(NamedTuple):
    """One formula of a rule; ``value`` None stands for the change of θ itself, ``operands`` are what is read."""

    name: str
    formula: str
    numbers: str
    value: Tensor | None
    operands: tuple[Tensor, ...]


def rule_rows(optimizer: torch.optim.Optimizer, theta: Tensor, gradient: Tensor) -> list[Row]:
    """The rows of ``optimizer`` after its first step, which led from ``theta`` ``(P,)`` along ``gradient`` ``(P,)``."""
    assert isinstance(optimizer, UpdateRule)
    group = {
        name: number(value) if isinstance(value, float) else value for name, value in optimizer.param_groups[0].items()
    }
    decay, rows, g = optimizer.param_groups[0].get("weight_decay", 0.0), [], gradient
    if decay and isinstance(optimizer, AdamW):
        shrunk = theta * (1 - optimizer.param_groups[0]["lr"] * decay)
        numbers = f"θ ← (1 − {group['lr']} · {group['weight_decay']}) θ"
        rows.append(Row("θ", "θ ← (1 − η λ) θ", numbers, shrunk, (theta,)))
        theta = shrunk
    elif decay:
        # A copy, since the rule keeps its own in scratch memory.
        g = optimizer.decayed(gradient, theta, decay).clone()
        rows.append(Row("g", "g ← g + λ θ", f"g ← g + {group['weight_decay']} · θ", g, (gradient, theta)))
    state: State = optimizer.state[optimizer.param_groups[0]["params"][0]]
    return rows + _RULES[type(optimizer)](group, state, theta, g)


def _sgd(group: dict[str, Any], state: State, theta: Tensor, g: Tensor) -> list[Row]:
    lr, mu = group["lr"], group["momentum"]
    if "momentum_buffer" not in state:
        return [Row("θ", "θ ← θ − η g", f"θ ← θ − {lr} · g", None, (theta, g))]
    b = state["momentum_buffer"]
    later = f"later b ← {mu} · b + (1 − {group['dampening']}) · g"
    rows = [Row("b", "b ← μ b + (1 − τ) g,  b = g at the first step", f"b = g;  {later}", b, (g,))]
    if group["nesterov"]:
        return [*rows, Row("θ", "θ ← θ − η (g + μ b)", f"θ ← θ − {lr} · (g + {mu} · b)", None, (theta, g, b))]
    return [*rows, Row("θ", "θ ← θ − η b", f"θ ← θ − {lr} · b", None, (theta, b))]


def _adam(group: dict[str, Any], state: State, theta: Tensor, g: Tensor) -> list[Row]:
    lr, beta1, beta2, t = group["lr"], group["beta1"], group["beta2"], state["step"]
    m, v = state["first_moment"], state["second_moment"]
    rows = [
        _average("m", "β₁", beta1, "g", m, g),
        _average("v", "β₂", beta2, "g²", v, g),
    ]
    if group["amsgrad"]:
        v_before, v = v, state["largest_second_moment"]
        rows.append(Row("v max", "v ← max(v max, v)", "v max = v at the first step", v, (v_before, v)))
    formula = "θ ← θ − η m̂ / (√v̂ + ε),  m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)"
    numbers = f"t = {t}:  θ ← θ − {lr} · m / (1 − {beta1}) / (√(v / (1 − {beta2})) + {group['eps']})"
    return [*rows, Row("θ", formula, numbers, None, (theta, m, v))]


def _rmsprop(group: dict[str, Any], state: State, theta: Tensor, g: Tensor) -> list[Row]:
    lr, alpha, eps, mu = group["lr"], group["alpha"], group["eps"], group["momentum"]
    v = state["second_moment"]
    rows, root = [_average("v", "α", alpha, "g²", v, g)], "√v"
    used: tuple[Tensor, ...] = (g, v)
    if group["centered"]:
        a = state["first_moment"]
        rows.append(_average("a", "α", alpha, "g", a, g))
        used, root = (g, v, a), "√(v − a²)"
    if "momentum_buffer" not in state:
        formula, numbers = f"θ ← θ − η g / ({root} + ε)", f"θ ← θ − {lr} · g / ({root} + {eps})"
        return [*rows, Row("θ", formula, numbers, None, (theta, *used))]
    b = state["momentum_buffer"]
    formula, numbers = f"b ← μ b + g / ({root} + ε)", f"b ← {mu} · b + g / ({root} + {eps}),  b = 0 at first"
    rows.append(Row("b", formula, numbers, b, (b, *used)))
    return [*rows, Row("θ", "θ ← θ − η b", f"θ ← θ − {lr} · b", None, (theta, b))]


def _adam_norm(group: dict[str, Any], state: State, theta: Tensor, g: Tensor) -> list[Row]:
    m, v = state["first_moment"], state["second_moment"]
    rows = [
        _average("m", "β₁", group["beta1"], "g", m, g),
        _average("v", "β₂", group["beta2"], "Σ‖dW‖²", v, g[: group["weight_numel"]]),
    ]
    numbers = f"θ ← θ − {group['lr']} · m / √({number(float(v))} + {group['eps']})"
    return [*rows, Row("θ", "θ ← θ − η m / √(v + ε)", numbers, None, (theta, m, v))]


def _average(name: str, symbol: str, rate: str, term: str, value: Tensor, g: Tensor) -> Row:
    """A running average that starts at 0."""
    formula = f"{name} ← {symbol} {name} + (1 − {symbol}) {term}"
    return Row(
        name, formula, f"{name} ← {rate} · {name} + (1 − {rate}) · {term},  {name} = 0 at first", value, (value, g)
    )


_RULES: dict[type, Callable[[dict[str, Any], State, Tensor, Tensor], list[Row]]] = {
    SGD: _sgd,
    Adam: _adam,
    AdamW: _adam,
    RMSprop: _rmsprop,
    AdamNorm: _adam_norm,
}
