"""What the update rules share: the walk over parameters, the check of options, weight decay, state, scratch memory."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, overload

import torch
from torch import Tensor

from mlp_lightning.optim.fused_form import FusedForm, OnePass
from mlp_lightning.optim.ranges import require_bool, require_int, require_nonnegative
from mlp_lightning.optim.torch_names import (
    CHANGING,
    check_state,
    refuse_foreign_options,
    refuse_parameters,
    with_betas,
)


# The base class is torch's for its bookkeeping alone: Lightning saves the state and counts the steps of a
# torch.optim.Optimizer. The rules are our own.
class UpdateRule(torch.optim.Optimizer):
    """An optimizer that is one formula for one tensor, ``update``, applied to every tensor that has a gradient.

    A rule sees tensors, their ``.grad`` and its own state, never the network. It works in place, leaves the gradient as
    it is, and never waits for the device. Options are read from ``param_groups`` at every step, so a schedule sets
    ``group["lr"]``, and torch's schedulers cycle ``group["betas"]`` or ``group["momentum"]``. State tensors have the
    parameter's dtype and device; a step count is an int. A step may run under inference mode: what it keeps is made
    outside of it, and can be written anywhere.
    """

    # What the rule may keep for each tensor.
    state_names: tuple[str, ...]
    # Whether ``weight_decay`` shrinks θ apart from the gradient, whatever the options.
    decouples_decay: ClassVar[bool] = False
    # Adam's formula as one call, which an engine may set; rules that know it take it in place of torch's operations.
    one_pass: OnePass | None = None
    # Of matrix products within the rule, which an engine sets in mixed precision; None for the parameter's.
    dtype_of_products: torch.dtype | None = None

    def fused(self) -> FusedForm | None:
        """The step as a kernel can make it in one pass; None where there is no such form of these options."""
        return None

    @staticmethod
    @abstractmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range; ``options`` are a whole group's."""

    @abstractmethod
    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step of the rule on one tensor, in place."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of tensors, whose options go before the defaults.

        Raises:
            ValueError: an option outside its range or one that only torch's optimizers take, tensors that are not real,
                or tensors in which ``weight_numel`` marks no weights.
        """
        param_group = with_betas(param_group, self.defaults)
        options = {**self.defaults, **param_group}
        self.check(options)
        refuse_foreign_options(param_group)
        _plain(torch.optim.Optimizer.add_param_group)(self, param_group)
        refuse_parameters(self.param_groups[-1]["params"])
        if not options.get("decay_biases", True):
            shapes = [tuple(parameter.shape) for parameter in self.param_groups[-1]["params"]]
            if any(len(shape) != 1 or shape[0] < options["weight_numel"] for shape in shapes):
                raise ValueError(
                    f"weight_numel must mark entries of flat tensors, got {options['weight_numel']}, {shapes}"
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a ``state_dict`` of this rule; options that it lacks, as those of older versions, stay as they are.

        Raises:
            ValueError: it is of another optimizer, of other tensors, or has an option outside its range.
        """
        groups, state = list(state_dict["param_groups"]), dict(state_dict["state"])
        # torch refuses other numbers of groups and tensors.
        for k, (own, saved) in enumerate(zip(self.param_groups, groups, strict=False)):
            usual = {name: value for name, value in own.items() if name in self.defaults}
            group = groups[k] = {**usual, **with_betas(saved, self.defaults)}
            refuse_foreign_options(group, CHANGING)
            self.check(group)
            for parameter, key in zip(own["params"], saved["params"], strict=False):
                if key in state:
                    # torch's SGD writes None where there is no momentum.
                    state[key] = {name: value for name, value in state[key].items() if value is not None}
                    shapes = {name: self.state_shape(name, parameter, own) for name in self.state_names}
                    check_state(type(self).__name__, state[key], shapes)
        _plain(torch.optim.Optimizer.load_state_dict)(self, {**state_dict, "state": state, "param_groups": groups})

    def state_dict(self) -> dict[str, Any]:
        """The state by the place of each tensor, and the options of each group, as torch's."""
        return _plain(torch.optim.Optimizer.state_dict)(self)

    def state_shape(self, name: str, parameter: Tensor, group: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape of a state tensor of that name, the parameter's unless a rule says otherwise."""
        return tuple(parameter.shape)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every tensor whose ``.grad`` is not None.

        Args:
            closure: computes the loss and the gradients afresh, before the update; called with autograd enabled.

        Returns:
            What the closure returned, or None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update_all()
        return loss

    def update_all(self) -> None:
        """``step`` without what torch wraps around it: no closure, no hooks, no record for a profiler.

        These cost a small network a tenth of its training step.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, self.state[parameter], group)

    def decayed(self, grad: Tensor, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
        """g + λ θ, the gradient of the loss plus ½ λ ‖θ‖² (L2 regularisation); g itself when λ = 0."""
        if group["weight_decay"] == 0:
            return grad
        memory = self.scratch("decayed", parameter)
        if not group["decay_biases"]:
            memory[group["weight_numel"] :] = grad[group["weight_numel"] :]
        gradient, theta, out = (self.decaying(tensor, group) for tensor in (grad, parameter, memory))
        torch.add(gradient, theta, alpha=group["weight_decay"], out=out)
        return memory

    def shrink(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        """θ ← (1 − η λ) θ, in place: weight decay apart from the gradient (Loshchilov & Hutter 2019)."""
        if group["weight_decay"]:
            self.decaying(parameter, group).mul_(1 - group["lr"] * group["weight_decay"])

    @staticmethod
    def decaying(tensor: Tensor, group: Mapping[str, Any]) -> Tensor:
        """The entries that weight decay acts on, as a view: all, or without ``decay_biases`` those of the weights."""
        return tensor if group["decay_biases"] else tensor[: group["weight_numel"]]

    def scratch(
        self, name: str, like: Tensor, shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Uninitialised memory on a tensor's device, kept between steps and no part of the state.

        Args:
            name: calls of one name get the same memory.
            like: the tensor.
            shape: of the memory; None for the tensor's.
            dtype: likewise.
        """
        shape = tuple(like.shape) if shape is None else shape
        dtype = like.dtype if dtype is None else dtype
        numel = math.prod(shape)
        # Not set in the constructor: a copied or unpickled optimizer comes without it.
        kept: dict[str, Tensor] = self.__dict__.setdefault("_scratch", {})
        memory = kept.get(name)
        if memory is None or memory.numel() < numel or (memory.dtype, memory.device) != (dtype, like.device):
            with torch.inference_mode(False):
                memory = kept[name] = torch.empty(numel, dtype=dtype, device=like.device)
        return memory[:numel].view(shape)


def check_decay(options: Mapping[str, Any]) -> None:
    """Raise ValueError for a weight decay below 0, or one that spares biases without telling where they begin."""
    require_nonnegative("weight_decay", options["weight_decay"])
    require_bool("decay_biases", options["decay_biases"])
    if not options["decay_biases"]:
        require_int("weight_numel", options["weight_numel"], 1)


def zero_at_first(state: dict[str, Any], name: str, like: Tensor) -> Tensor:
    """The state tensor of that name, made as zeros of a tensor's shape, dtype and device when it is missing."""
    if name not in state:
        with torch.inference_mode(False):
            state[name] = torch.zeros_like(like)
    tensor: Tensor = state[name]
    return tensor


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of torch's without the wrapper around it, which imports torch's compiler: that takes two seconds."""
    return getattr(method, "__wrapped__", method)
