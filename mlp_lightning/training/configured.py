"""What the options make: a module with its loss, network, update rule and schedule, which does not train yet."""

import math
from typing import Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.optim.schedules import Schedule
from mlp_lightning.training.curves import Curves
from mlp_lightning.training.evaluation import Evaluation
from mlp_lightning.training.recipe import (
    OPTIMIZER_OPTIONS,
    SCHEDULE_OPTIONS,
    OptimizerName,
    ScheduleName,
    make_loss,
    make_optimizer,
    make_schedule,
)

ActivationName = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "identity"]
InitName = Literal[
    "zeros",
    "glorot_uniform",
    "glorot_normal",
    "he_normal",
    "he_uniform",
    "he_notebook",
    "lecun_normal",
    "orthogonal",
]


class ConfiguredModule(pl.LightningModule):
    """Model: the network, its loss and how it learns.

    Options of an optimizer or schedule default to null, which stands for that rule's own default; one that the chosen
    rule does not take is refused.

    Args:
        hidden: Widths of the hidden layers; input and output follow from the data.
        activation: Activation of the hidden layers.
        init: Initialiser of weights and biases.
        loss: ``cross_entropy`` (softmax included) or ``mse`` (squared error against one-hot targets).
        reduction: Whether a minibatch's gradient is the ``mean`` or the ``sum`` of its samples' gradients.
        label_smoothing: Share of each target spread over all classes, in [0, 1); for cross_entropy.
        class_weights: One positive weight for each class; for cross_entropy.
        optimizer: Update rule.
        lr: Learning rate, at least 0; the schedule multiplies it.
        momentum: For sgd and rmsprop, at least 0.
        dampening: For sgd.
        nesterov: For sgd.
        weight_decay: For all but adam_norm; decoupled in adamw, added to the gradient elsewhere.
        beta1: For adam, adamw and adam_norm, in [0, 1).
        beta2: For adam, adamw and adam_norm, in [0, 1).
        eps: For all but sgd.
        amsgrad: For adam and adamw.
        alpha: For rmsprop, in [0, 1).
        centered: For rmsprop.
        schedule: How the learning rate changes over the training.
        warmup_epochs: Epochs of linear rise before the schedule; fractions count.
        step_epochs: For schedule step: epochs between two drops (default 5).
        gamma: For schedule step: factor of each drop (default 0.1).
        final_factor: For schedule cosine: factor at the end (default 0).
        pct_start: For schedule one_cycle: share of the rise (default 0.3).
        clip_norm: Largest Euclidean norm of the whole gradient; null for none.
        clip_value: Largest absolute value of each entry of the gradient; null for none.
        seed: Seed of the initial weights; the command line sets it to ``seed_everything``.
    """

    def __init__(
        self,
        hidden: list[int] = [500, 250, 100],  # noqa: B006 (the command line shows it as the default)
        activation: ActivationName = "relu",
        init: InitName = "he_normal",
        loss: Literal["cross_entropy", "mse"] = "cross_entropy",
        reduction: Literal["mean", "sum"] = "mean",
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        optimizer: OptimizerName = "adam",
        lr: float = 0.001,
        momentum: float | None = None,
        dampening: float | None = None,
        nesterov: bool | None = None,
        weight_decay: float | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        eps: float | None = None,
        amsgrad: bool | None = None,
        alpha: float | None = None,
        centered: bool | None = None,
        schedule: ScheduleName = "constant",
        warmup_epochs: float = 0.0,
        step_epochs: float | None = None,
        gamma: float | None = None,
        final_factor: float | None = None,
        pct_start: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters()
        for width in hidden:
            if width < 1:
                raise UserError(f"model.hidden: got {hidden}, every width must be at least 1")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not (limit > 0 and math.isfinite(limit)):
                raise UserError(f"model.{name}: got {limit}, must be above zero and finite")
        self.optimizer_options = {name: self.hparams[name] for name in OPTIMIZER_OPTIONS}
        self.schedule_options = {name: self.hparams[name] for name in SCHEDULE_OPTIONS}
        # Wrong settings are found before any data is loaded.
        make_optimizer(torch.zeros(1), 1, optimizer, lr, self.optimizer_options)
        self.make_schedule(steps_per_epoch=1, total_steps=10**9)
        # The sum, always: the mean's scale goes in as ``dloss``, since a minibatch may be spread over devices.
        self.loss = make_loss(loss, "sum", label_smoothing=label_smoothing, class_weights=class_weights)
        self.curves = Curves()
        self.results: dict[str, float] = {}
        self.counts: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        """Build the network, whose input and output widths follow from the data."""
        # Without a trainer it is ``load_from_checkpoint`` that asks: the checkpoint will tell the widths.
        if not hasattr(self, "network") and self._trainer is not None:
            data = self.trainer.datamodule.data  # type: ignore[attr-defined]
            self._build((data.n_features, *self.hparams["hidden"], data.n_classes))

    def _build(self, sizes: tuple[int, ...]) -> None:
        weights = self.hparams["class_weights"]
        if weights is not None and len(weights) != sizes[-1]:
            raise UserError(f"model.class_weights: got {len(weights)} weights, must be {sizes[-1]}, one for each class")
        generator = torch.Generator().manual_seed(self.hparams["seed"])
        self.network = MLP(sizes, self.hparams["activation"], self.hparams["init"], generator=generator)
        self.val_sums = Evaluation(sizes[-1])
        self.test_sums = Evaluation(sizes[-1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The update rule on the one flat parameter."""
        network = self.network
        rule, lr = self.hparams["optimizer"], self.hparams["lr"]
        return make_optimizer(network.flat, network.weight_numel, rule, lr, self.optimizer_options)

    def make_schedule(self, steps_per_epoch: int, total_steps: float) -> Schedule:
        """The multiplier of the learning rate for a training of that length."""
        return make_schedule(
            self.hparams["schedule"],
            self.schedule_options,
            warmup_epochs=self.hparams["warmup_epochs"],
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        )
