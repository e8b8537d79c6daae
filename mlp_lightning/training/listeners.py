"""Who listens to single steps: hooks of callbacks, module, data, strategy, profiler and optimizer."""

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

GRADIENT_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end", *GRADIENT_HOOKS)
# What else a module may do around its gradient,
UPDATE_HOOKS = (*GRADIENT_HOOKS, "optimizer_zero_grad", "configure_gradient_clipping", "optimizer_step")
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
MODULE_HOOKS = (*STEP_HOOKS, *UPDATE_HOOKS, *TRANSFER_HOOKS, "training_step")
STRATEGY_HOOKS = ("on_train_batch_start", "training_step", "batch_to_device")
# and what it does where autograd computes the gradient and a scheduler of torch sets the learning rate.
UNHEARD = ("backward", "lr_scheduler_step")


def listens_to_gradients(trainer: pl.Trainer, module: pl.LightningModule, base: type) -> bool:
    """Whether somebody has a hook around the gradient: a callback, the module, or the optimizer itself.

    Args:
        trainer: with its callbacks and optimizers.
        module: that it trains.
        base: the class of modules whose own hooks do nothing.
    """
    callbacks: Iterable[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return (
        any(differs(callback, hook, (Callback,)) for callback in callbacks for hook in GRADIENT_HOOKS)
        or any(differs(module, hook, (base,)) for hook in UPDATE_HOOKS)
        or any(has_step_hooks(optimizer) for optimizer in trainer.optimizers)
    )


def needs_every_step(trainer: pl.Trainer, module: pl.LightningModule, base: type) -> bool:
    """Whether a step without Lightning would leave out what the module, the data or others do in it; as above."""
    return (
        any(differs(module, hook, (base,)) for hook in MODULE_HOOKS)
        or any(_is_of_a_user(trainer.datamodule, hook) for hook in TRANSFER_HOOKS)  # type: ignore[attr-defined]
        or any(_is_of_a_user(trainer.strategy, hook) for hook in STRATEGY_HOOKS)
        or any(has_step_hooks(optimizer) for optimizer in trainer.optimizers)
        or not isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
    )


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether ``register_step_pre_hook`` or ``register_step_post_hook`` was called, of it or of all optimizers."""
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    of_all = (torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks)
    return any(own) or any(of_all)


def unheard_hooks(module: pl.LightningModule, networks: Iterable[Module]) -> list[str]:
    """Hooks of a module that nobody calls in a training, and torch's hooks on its networks."""
    names = [name for name in UNHEARD if differs(module, name, (pl.LightningModule,))]
    registered = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    if any(getattr(network, name) for network in networks for name in registered):
        names.append("hooks registered on the network")
    return names


def differs(instance: Any, hook: str, kinds: Iterable[type]) -> bool:
    """Whether an instance has a hook, of its class or set on the instance, that is none of these classes' own."""
    own = getattr(instance, hook, None)
    function = getattr(own, "__func__", own)
    return own is not None and all(function is not getattr(kind, hook, None) for kind in kinds)


def _is_of_a_user(instance: Any, hook: str) -> bool:
    own = getattr(instance, hook, None)
    return own is not None and not getattr(own, "__module__", "").startswith(("lightning.", "mlp_lightning."))
