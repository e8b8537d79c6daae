"""The hooks around a gradient, called for a step by hand as Lightning's own loop calls them around autograd."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer import call
from torch import Tensor

from mlp_lightning.optim import UpdateRule


class GradientHooks:
    """Calls ``on_before_zero_grad``, ``on_before_backward``, … of callbacks and module, in Lightning's order.

    What a hook does to ``parameter.grad`` of the flat parameter, in place or by another tensor, enters the update.

    Args:
        trainer: whose callbacks are called.
        module: whose hooks are called.
        rule: what they are given as the optimizer.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule, rule: UpdateRule) -> None:
        self._trainer, self._module, self._rule = trainer, module, rule

    def before_backward(self, loss: Tensor, *, is_first: bool) -> None:
        """Between the forward pass of a minibatch and its gradient.

        Args:
            loss: of the minibatch, 0-dim.
            is_first: whether it is the first minibatch of its update.
        """
        self._loss = loss
        if is_first:
            self._call("on_before_zero_grad", self._rule)
            self._module.optimizer_zero_grad(*self._place, self._rule)
        self._call("on_before_backward", loss)

    def after_backward(self) -> None:
        """After the gradient of a minibatch, summed over all processes where it completes an update."""
        self._call("on_after_backward")

    def before_update(self) -> None:
        """Before the options of the model clip the gradient."""
        self._call("on_before_optimizer_step", self._rule)
        with torch.inference_mode(False):
            self._module.configure_gradient_clipping(self._rule)

    def update(self) -> None:
        """Make the update through ``optimizer_step``, with the optimizer's own hooks."""
        with torch.inference_mode(False):
            self._module.optimizer_step(*self._place, self._rule, lambda: self._loss)

    @property
    def _place(self) -> tuple[int, int]:
        return self._trainer.current_epoch, self._trainer.fit_loop.epoch_loop.batch_idx

    def _call(self, hook: str, *args: Any) -> None:
        # Outside of inference mode, in which a hook could keep no tensor for autograd.
        with torch.inference_mode(False):
            call._call_callback_hooks(self._trainer, hook, *args)
            call._call_lightning_module_hook(self._trainer, hook, *args)
