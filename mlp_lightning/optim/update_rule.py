"""What the update rules share: the walk over parameters, the check of options, state and scratch memory."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor


# The base class is torch's for its bookkeeping alone: Lightning saves the state and counts the steps of a
# torch.optim.Optimizer. The rules are our own.
class UpdateRule(torch.optim.Optimizer):
    """An optimizer that is one formula for one tensor, ``update``, applied to every tensor that has a gradient.

    A rule sees tensors, their ``.grad`` and its own state, never the network. It works in place, leaves the gradient as
    it is, and never waits for the device. Options are read from ``param_groups`` at every step, so a schedule sets
    ``group["lr"]``. State tensors have the parameter's dtype and device; a step count is an int. A step may run under
    inference mode: what it keeps is made outside of it, and can be written anywhere.
    """

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
            ValueError: an option outside its range.
        """
        self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)

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
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, self.state[parameter], group)
        return loss

    def decayed(self, grad: Tensor, parameter: Tensor, weight_decay: float) -> Tensor:
        """g + λ θ, the gradient of the loss plus ½ λ ‖θ‖² (L2 regularisation); g itself when λ = 0."""
        if weight_decay == 0:
            return grad
        return torch.add(grad, parameter, alpha=weight_decay, out=self.scratch("decayed", parameter))

    def scratch(self, name: str, like: Tensor) -> Tensor:
        """Uninitialised memory of a tensor's shape, dtype and device, kept between steps and no part of the state."""
        # Not set in the constructor: a copied or unpickled optimizer comes without it.
        kept: dict[str, Tensor] = self.__dict__.setdefault("_scratch", {})
        memory = kept.get(name)
        if (
            memory is None
            or memory.numel() < like.numel()
            or (memory.dtype, memory.device) != (like.dtype, like.device)
        ):
            with torch.inference_mode(False):
                memory = kept[name] = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        return memory[: like.numel()].view(like.shape)


def zero_at_first(state: dict[str, Any], name: str, like: Tensor) -> Tensor:
    """The state tensor of that name, made as zeros of a tensor's shape, dtype and device when it is missing."""
    if name not in state:
        with torch.inference_mode(False):
            state[name] = torch.zeros_like(like)
    tensor: Tensor = state[name]
    return tensor
