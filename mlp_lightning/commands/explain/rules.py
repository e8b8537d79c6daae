"""The update rules as rows of formulas with numbers: what each does at its first step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlp_lightning.commands.explain.step import number
from mlp_lightning.optim import SGD, Adam, AdamNorm, AdamW, Lion, Muon, NAdam, RMSprop, UpdateRule
from mlp_lightning.optim.muon import ADAM_RMS, COEFFICIENTS, matrices
from mlp_lightning.optim.nadam import momentum_at

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
    options = optimizer.param_groups[0]
    if "betas" in options:
        group |= {name: number(beta) for name, beta in zip(("beta1", "beta2"), options["betas"], strict=True)}
    decay, rows, g = options.get("weight_decay", 0.0), [], gradient
    spared = "" if options.get("decay_biases", True) else ",  in the weights alone"
    if decay and (optimizer.decouples_decay or options.get("decoupled_weight_decay")):
        shrunk = theta.clone()
        optimizer.decaying(shrunk, options).mul_(1 - options["lr"] * decay)
        numbers = f"θ ← (1 − {group['lr']} · {group['weight_decay']}) θ{spared}"
        rows.append(Row("θ", f"θ ← (1 − η λ) θ{spared}", numbers, shrunk, (theta,)))
        theta = shrunk
    elif decay:
        # A copy, since the rule keeps its own in scratch memory.
        g = optimizer.decayed(gradient, theta, options).clone()
        numbers = f"g ← g + {group['weight_decay']} · θ{spared}"
        rows.append(Row("g", f"g ← g + λ θ{spared}", numbers, g, (gradient, theta)))
    state: State = optimizer.state[optimizer.param_groups[0]["params"][0]]
    if isinstance(optimizer, Muon):
        return rows + _muon(optimizer, group, state, theta, g)
    if isinstance(optimizer, NAdam):
        return rows + _nadam(group, options, state, theta, g)
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


def _nadam(group: dict[str, Any], options: dict[str, Any], state: State, theta: Tensor, g: Tensor) -> list[Row]:
    lr, beta2, t = group["lr"], group["beta2"], state["step"]
    m, v = state["first_moment"], state["second_moment"]
    mu, mu_next = (number(momentum_at(step, options)) for step in (t, t + 1))
    formula = (
        "θ ← θ − η m̂ / (√v̂ + ε),  m̂ = μₜ₊₁ m / (1 − μ₁ ⋯ μₜ₊₁) + (1 − μₜ) g / (1 − μ₁ ⋯ μₜ),  "
        "v̂ = v / (1 − β₂ᵗ),  μₜ = β₁ (1 − ½ · 0.96^(t ψ))"
    )
    m_hat = f"({mu_next} · m / (1 − {mu} · {mu_next}) + (1 − {mu}) · g / (1 − {mu}))"
    numbers = f"t = {t}:  θ ← θ − {lr} · {m_hat} / (√(v / (1 − {beta2})) + {group['eps']})"
    return [
        _average("m", "β₁", group["beta1"], "g", m, g),
        _average("v", "β₂", beta2, "g²", v, g),
        Row("θ", formula, numbers, None, (theta, g, m, v)),
    ]


def _muon(optimizer: Muon, group: dict[str, Any], state: State, theta: Tensor, g: Tensor) -> list[Row]:
    lr, mu, numel, options = group["lr"], group["momentum"], group["weight_numel"], optimizer.param_groups[0]
    b, dweights = state["momentum_buffer"], g[: group["weight_numel"]]
    # Copies of U and O, since the rule keeps its own in scratch memory.
    rows = [_average("B", "μ", mu, "G", b, dweights)]
    if group["nesterov"]:
        u = optimizer.looking_ahead(b, g, options).clone()
        rows.append(Row("U", "U = (1 − μ) G + μ B", f"U = (1 − {mu}) · G + {mu} · B", u, (dweights, b)))
    else:
        u = b
        rows.append(Row("U", "U = B", "", u, (b,)))
    steps = group["ns_steps"]
    o = torch.cat([optimizer.orthogonalized(matrix, steps).clone().flatten() for matrix in matrices(u, options)])
    formula = "O = p(p(…p(U / ‖U‖)…)),  p(X) = a X + b X Xᵀ X + c (X Xᵀ)² X,  for each weight matrix"
    a_b_c = ", ".join(map(number, COEFFICIENTS))
    rows.append(Row("O", formula, f"p {steps} times, with a, b, c = {a_b_c}", o, (u,)))
    rest = []
    if "first_moment" in state:
        adam = _adam({**group, "amsgrad": False}, state, theta[numel:], g[numel:])
        rest = [row._replace(formula=f"{row.formula},  for all but W") for row in adam[:-1]]
    widest = ", ".join(str(max(shape)) for shape in group["weight_shapes"])
    numbers = f"W ← W − {number(ADAM_RMS)} · √n · {lr} · O,  n = {widest};  all other θ take Adam's step with {lr}"
    formula = "W ← W − 0.2 √max(H, D) η O,  θ ← θ − η m̂ / (√v̂ + ε) for all but W"
    return [*rows, *rest, Row("θ", formula, numbers, None, (theta, o))]


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


def _lion(group: dict[str, Any], state: State, theta: Tensor, g: Tensor) -> list[Row]:
    lr, beta1, beta2, m = group["lr"], group["beta1"], group["beta2"], state["first_moment"]
    # m is 0 before the first step.
    u = ((1 - float(beta1)) * g).sign()
    numbers = f"u = sign({beta1} · m + (1 − {beta1}) · g),  m = 0 at first"
    return [
        Row("u", "u = sign(β₁ m + (1 − β₁) g)", numbers, u, (g,)),
        Row("θ", "θ ← θ − η u", f"θ ← θ − {lr} · u", None, (theta, u)),
        _average("m", "β₂", beta2, "g", m, g),
    ]


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
    Lion: _lion,
}
