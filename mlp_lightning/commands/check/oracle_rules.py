"""The oracle of updates: clipping, rules and schedules as torch itself has them.

Nothing here shares a formula with the package. This file and ``check_oracle.py``, with the tests and benchmarks, are
where torch.autograd and the algorithms of torch.optim may appear.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler


def clip(gradient: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The gradients as torch.nn.utils clips them: by the norm of all together, then by value."""
    # torch's clipping works on what ``.grad`` holds.
    carriers = {name: nn.Parameter(torch.empty_like(value)) for name, value in gradient.items()}
    for name, carrier in carriers.items():
        carrier.grad = gradient[name].clone()
    if options["clip_norm"] is not None:
        nn.utils.clip_grad_norm_(carriers.values(), options["clip_norm"])
    if options["clip_value"] is not None:
        nn.utils.clip_grad_value_(carriers.values(), options["clip_value"])
    return {name: carrier.grad for name, carrier in carriers.items() if carrier.grad is not None}


def make_rule(parameters: list[nn.Parameter], options: Mapping[str, Any]) -> Any:
    """torch's counterpart of the configured optimizer on a list of tensors, with torch's default for what is None."""
    name = options["optimizer"]
    given = {key: options[key] for key in RULE_OPTIONS[name] if options[key] is not None}
    if name == "adam_norm":
        return NotebookAdam(parameters, **given)
    if name == "muon":
        return MuonBySvd(parameters, decay_biases=options["decay_biases"] is not False, **given)
    if name == "lion":
        return LionByTensor(parameters, decay_biases=options["decay_biases"] is not False, **given)
    if name in ("adam", "adamw", "nadam"):
        given["betas"] = (given.pop("beta1", 0.9), given.pop("beta2", 0.999))
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if options["decay_biases"] is False:
        weights, others = ([p for p in parameters if (p.ndim == 2) is wanted] for wanted in (True, False))
        groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    # The algorithms of torch.optim, as the oracle of the package's own.
    rules = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
        "rmsprop": torch.optim.RMSprop,
    }
    rule = rules[name](groups, lr=options["lr"], **given)
    if name == "nadam":
        # torch would begin with a product of momenta in float32.
        for parameter in parameters:
            zero, one = (torch.tensor(value, dtype=torch.float64) for value in (0.0, 1.0))
            moments = {moment: torch.zeros_like(parameter) for moment in ("exp_avg", "exp_avg_sq")}
            rule.state[parameter] = {"step": zero, "mu_product": one, **moments}
    return rule


RULE_OPTIONS = {
    "sgd": ("momentum", "dampening", "nesterov", "weight_decay"),
    "adam": ("beta1", "beta2", "eps", "weight_decay", "amsgrad"),
    "adamw": ("beta1", "beta2", "eps", "weight_decay", "amsgrad"),
    "nadam": ("beta1", "beta2", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay"),
    "lion": ("beta1", "beta2", "weight_decay"),
    "muon": ("momentum", "nesterov", "ns_steps", "weight_decay", "beta1", "beta2", "eps"),
    "rmsprop": ("alpha", "eps", "momentum", "centered", "weight_decay"),
    "adam_norm": ("beta1", "beta2", "eps"),
}


def constrain(parameters: Mapping[str, Tensor], options: Mapping[str, Any], lr: float) -> None:
    """What is configured to follow each step, on weights alone, in place: softshrink, then rows of bounded length."""
    for weight in (parameter for parameter in parameters.values() if parameter.ndim == 2):
        if options["l1"]:
            weight.data = F.softshrink(weight.detach(), lr * options["l1"])
        if options["max_norm"] is not None:
            limit = options["max_norm"]
            # Not torch.renorm, whose quotient has an ε of 1e-7.
            is_long = weight.detach().norm(dim=1, keepdim=True) > limit
            weight.data = torch.where(is_long, limit * F.normalize(weight.detach(), dim=1), weight.detach())


class MuonBySvd:
    """Muon from singular values, on which the Newton–Schulz polynomial acts one by one; torch's AdamW for the rest.

    torch.optim.Muon iterates in bfloat16, too coarse to compare with.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        decay_biases: bool,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        weights, others = ([p for p in parameters if (p.ndim == 2) is wanted] for wanted in (True, False))
        decay = weight_decay if decay_biases else 0.0
        self.rest = torch.optim.AdamW(others, lr=0.0, betas=(beta1, beta2), eps=eps, weight_decay=decay)
        self.param_groups: list[dict[str, Any]] = [{"params": weights, "lr": 0.0}, *self.rest.param_groups]
        self.momentum, self.nesterov, self.ns_steps, self.weight_decay = momentum, nesterov, ns_steps, weight_decay
        self.buffers = [torch.zeros_like(weight) for weight in weights]

    def step(self) -> None:
        """One step from the tensors' ``.grad``."""
        self.rest.step()
        lr = self.param_groups[0]["lr"]
        for weight, buffer in zip(self.param_groups[0]["params"], self.buffers, strict=True):
            buffer.mul_(self.momentum).add_((1 - self.momentum) * weight.grad)
            ahead = (1 - self.momentum) * weight.grad + self.momentum * buffer if self.nesterov else buffer
            rms = 0.2 * max(weight.shape) ** 0.5
            weight.data = weight.data - lr * self.weight_decay * weight.data - lr * rms * self._orthogonal(ahead)

    def _orthogonal(self, matrix: Tensor) -> Tensor:
        if not matrix.isfinite().all():
            return torch.full_like(matrix, float("nan"))
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        values = values / values.norm().clamp(min=1e-7)
        for _ in range(self.ns_steps):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        return left @ values.diag() @ right


class LionByTensor:
    """Lion, which torch has not, tensor by tensor; it knows which signs rounding decides."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        decay_biases: bool,
        beta1: float = 0.9,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": parameters, "lr": 0.0}]
        self.beta1, self.beta2, self.weight_decay, self.decay_biases = beta1, beta2, weight_decay, decay_biases
        # For each parameter m and u without its sign, and what both would be if no two gradients cancelled.
        self.average = {parameter: torch.zeros(2, *parameter.shape).to(parameter) for parameter in parameters}
        self.ahead = dict(self.average)

    def step(self) -> None:
        """One step from the tensors' ``.grad``."""
        lr = self.param_groups[0]["lr"]
        for parameter, m in self.average.items():
            gradient: Tensor = parameter.grad  # type: ignore[assignment]
            g = torch.stack([gradient, gradient.abs()])
            self.ahead[parameter] = m * self.beta1 + g * (1 - self.beta1)
            self.average[parameter] = m * self.beta2 + g * (1 - self.beta2)
            decay = self.weight_decay if self.decay_biases or parameter.ndim == 2 else 0.0
            parameter.data = parameter.data - lr * (self.ahead[parameter][0].sign() + decay * parameter.data)

    def undecided(self, parameter: nn.Parameter, eps: float) -> Tensor:
        """Where the last step's sign is that of rounding errors, in a precision of that ``eps``."""
        ahead, size = self.ahead[parameter]
        return ahead.abs() < 64 * eps * size


def sign_allowance(rule: Any, parameter: nn.Parameter, lr: float, eps: float) -> Tensor | float:
    """How far apart two right steps of a rule of signs may be in each entry; 0 for other rules."""
    return 2 * lr * rule.undecided(parameter, eps) if isinstance(rule, LionByTensor) else 0.0


def amplification(options: Mapping[str, Any]) -> float:
    """What the rule may multiply a rounding of its gradient by: the slope of Muon's polynomials at 0; otherwise 0."""
    if options["optimizer"] != "muon":
        return 0.0
    return float(3.4445 ** (5 if options["ns_steps"] is None else options["ns_steps"]))


def unit_movement(parameter: Tensor, lr: float) -> float:
    """How far Muon moves a tensor along a direction of length 1; other tensors have no directions."""
    return lr * 0.2 * max(parameter.shape) ** 0.5 if parameter.ndim == 2 else 0.0


class NotebookAdam:
    """The notebook's optimizer, which torch has not, tensor by tensor as the notebook walks over its layers."""

    def __init__(
        self, parameters: list[nn.Parameter], beta1: float = 0.9, beta2: float = 0.5, eps: float = 1e-8
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": parameters, "lr": 0.0}]
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.first = [torch.zeros_like(parameter) for parameter in parameters]
        self.second = 0.0

    def step(self) -> None:
        """One step from the tensors' ``.grad``; a tensor of two dimensions is a weight, one of one a bias."""
        group = self.param_groups[0]
        squares = sum(float((p.grad**2).sum()) for p in group["params"] if p.ndim == 2)
        self.second = self.beta2 * self.second + (1 - self.beta2) * squares
        for index, parameter in enumerate(group["params"]):
            self.first[index] = self.beta1 * self.first[index] + (1 - self.beta1) * parameter.grad
            parameter.data = parameter.data - group["lr"] / (self.second + self.eps) ** 0.5 * self.first[index]


def learning_rates(options: Mapping[str, Any], steps: int, steps_per_epoch: int, total_steps: float) -> Tensor:
    """The learning rates ``(steps,)`` of torch.optim.lr_scheduler's counterpart of the configured schedule."""
    # An optimizer of torch's without gradients, for its schedulers need one to write into.
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=options["lr"])
    scheduler = _scheduler(optimizer, options, steps_per_epoch, total_steps)
    rates: list[float] = []
    with warnings.catch_warnings():
        # Older releases of torch warn of what SequentialLR itself does.
        warnings.filterwarnings("ignore", message="The epoch parameter in", category=UserWarning)
        for _ in range(steps):
            if rates:
                optimizer.step()
                scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
    return torch.tensor(rates, dtype=torch.float64)


def _scheduler(optimizer: torch.optim.Optimizer, options: Mapping[str, Any], steps_per_epoch: int, total: float) -> Any:
    name, lr = options["schedule"], options["lr"]
    rise = round(options["warmup_epochs"] * steps_per_epoch)
    main: Any
    if name == "step":
        epochs = 5.0 if options["step_epochs"] is None else options["step_epochs"]
        gamma = 0.1 if options["gamma"] is None else options["gamma"]
        main = lr_scheduler.StepLR(optimizer, max(1, round(epochs * steps_per_epoch)), gamma)
    elif name == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, int(total) - rise, eta_min=lr * (options["final_factor"] or 0))
    elif name == "one_cycle":
        pct_start = 0.3 if options["pct_start"] is None else options["pct_start"]
        return lr_scheduler.OneCycleLR(optimizer, lr, int(total), pct_start=pct_start, cycle_momentum=False)
    else:
        main = lr_scheduler.ConstantLR(optimizer, 1.0)
    if not rise:
        return main
    first = lr_scheduler.LinearLR(optimizer, start_factor=1 / (rise + 1), end_factor=1.0, total_iters=rise)
    return lr_scheduler.SequentialLR(optimizer, [first, main], milestones=[rise])
