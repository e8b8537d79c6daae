"""The oracle of updates: clipping, rules and schedules as torch itself has them.

Nothing here shares a formula with the package. This file and ``check_oracle.py``, with the tests and benchmarks, are
where torch.autograd and the algorithms of torch.optim may appear.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
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
    if name in ("adam", "adamw"):
        given["betas"] = (given.pop("beta1", 0.9), given.pop("beta2", 0.999))
    # The algorithms of torch.optim, as the oracle of the package's own.
    rules = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    return rules[name](parameters, lr=options["lr"], **given)


RULE_OPTIONS = {
    "sgd": ("momentum", "dampening", "nesterov", "weight_decay"),
    "adam": ("beta1", "beta2", "eps", "weight_decay", "amsgrad"),
    "adamw": ("beta1", "beta2", "eps", "weight_decay", "amsgrad"),
    "rmsprop": ("alpha", "eps", "momentum", "centered", "weight_decay"),
    "adam_norm": ("beta1", "beta2", "eps"),
}


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
