"""One training step by hand: forward, loss, backward, clip, update, in memory that is kept between steps."""

import torch
from torch import Tensor

from mlp_lightning.data.loader import Batch
from mlp_lightning.nn import MLP
from mlp_lightning.nn.losses import Loss
from mlp_lightning.nn.workspace import Workspace
from mlp_lightning.optim import SGD
from mlp_lightning.optim.clipping import clip_norm_, clip_value_
from mlp_lightning.training.strategy import sum_over_ranks


class HandStep:
    """The steps of one training, on one process's share of each minibatch.

    Plain SGD adds each layer's gradient to the weights inside the product that computes it (``SGD.update_layer``),
    where nothing needs the whole gradient first: no clipping, no other process, no mixed precision.
    ``samples_seen`` counts the samples of all processes.

    Args:
        network: on its device.
        loss: with reduction ``"sum"``.
        rule: on ``network.flat``, with one group of options.
        reduction: ``"mean"`` or ``"sum"`` of the whole minibatch.
        clip_norm: largest Euclidean norm of the gradient; None for none.
        clip_value: largest absolute value of its entries; None for none.
        world_size: number of processes that share each minibatch.
        dtype_of_products: None for the parameter's.
        scaler: for float16, whose range small deltas would fall below: the scale of the deltas, taken out of the
            gradient again, or a step left out where the gradient overflowed. None for no scaling.
    """

    def __init__(
        self,
        network: MLP,
        loss: Loss,
        rule: torch.optim.Optimizer,
        *,
        reduction: str,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        world_size: int = 1,
        dtype_of_products: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.network = network
        self.loss = loss
        self.rule = rule
        self.reduction = reduction
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.world_size = world_size
        self.scaler = scaler
        self.samples_seen = 0
        self.workspace = Workspace(network, dtype_of_products)
        (self._group,) = rule.param_groups
        clips = clip_norm is not None or clip_value is not None
        is_plain = isinstance(rule, SGD) and self._group["momentum"] == 0
        self.adds_to_weights = is_plain and not (clips or world_size > 1 or self.workspace.is_mixed)

    def __call__(self, batch: Batch, lr: float, *, keep_gradient: bool = True) -> tuple[Tensor, float | Tensor]:
        """Make one step.

        Args:
            batch: this process's share; it may be empty where there are others.
            lr: the learning rate of this step.
            keep_gradient: whether ``network.flat_grad`` must hold the gradient afterwards, though the update does
                without; it never changes the update.

        Returns:
            The share's summed loss before the step, 0-dim, and what its mean divides by.
        """
        self._group["lr"] = lr
        self.samples_seen += batch.size
        workspace, loss = self.workspace, self.loss
        logits = workspace.forward(batch.x)
        loss_sum, cache = loss.forward(logits, batch.y)
        normalizer = loss.normalizer(logits, batch.y)
        deltas = workspace.backward(loss.backward(cache, self._dloss(normalizer, logits)))
        if self.adds_to_weights:
            assert isinstance(self.rule, SGD)
            layers = workspace.layers
            for k, dz, a in deltas:
                if keep_gradient:
                    workspace.write_gradient(k, dz, a)
                self.rule.update_layer(layers[k].weight, layers[k].bias, dz, a, self._group)
        else:
            for k, dz, a in deltas:
                workspace.write_gradient(k, dz, a)
            self._update(sum_over_ranks(self.network.flat_grad))
        return loss_sum, normalizer

    def _dloss(self, normalizer: float | Tensor, logits: Tensor) -> float | Tensor:
        """1 for the sum; for the mean 1 over the normalizer of the whole minibatch, which all processes share."""
        dloss: float | Tensor = 1.0
        if self.reduction == "mean":
            if self.world_size > 1:
                normalizer = sum_over_ranks(torch.as_tensor(normalizer, device=logits.device).clone())
            dloss = 1.0 / normalizer
        return dloss if self.scaler is None else self.scaler.scale(logits.new_ones(())) * dloss

    def _update(self, gradient: Tensor) -> None:
        # Lightning clears .grad around validation, so it is set before each step.
        self.network.flat.grad = gradient
        if self.scaler is not None:
            self.scaler.unscale_(self.rule)
        if self.clip_norm is not None:
            clip_norm_(gradient, self.clip_norm)
        if self.clip_value is not None:
            clip_value_(gradient, self.clip_value)
        if self.scaler is None:
            self.rule.step()
        else:
            self.scaler.step(self.rule)
            self.scaler.update()
