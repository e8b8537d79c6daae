"""What the options make: a module with its loss, network, update rule and schedule, which does not train yet."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from mlp_lightning.data.classes import balanced_weights
from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.engines.readings import Readings
from mlp_lightning.engines.shard import Shard
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.nn.norm import NormName
from mlp_lightning.optim import OPTIMIZERS
from mlp_lightning.optim.averaging import Averaging
from mlp_lightning.optim.schedules import Schedule
from mlp_lightning.training.curves import Curves
from mlp_lightning.training.evaluation import Evaluation, Weights
from mlp_lightning.training.loaders import own_data, widths_of
from mlp_lightning.training.memory_needed import Setting, check_memory, states_kept
from mlp_lightning.training.names import (
    ActivationName,
    AveragingName,
    InitName,
    LossName,
    OptimizerName,
    ScheduleName,
)
from mlp_lightning.training.options import (
    ADVERSARY_OPTIONS,
    OPTIMIZER_OPTIONS,
    SCHEDULE_OPTIONS,
    make_adversary,
    make_dropout,
    make_loss,
    make_optimizer,
)
from mlp_lightning.training.recipes import averaging_of, check_options, network_of, rule_of, schedule_of

# Rules in which what becomes of an entry depends on others'.
COUPLING = ("muon", "adam_norm")


class ConfiguredModule(pl.LightningModule):
    """Model: the network, its loss and how it learns.

    Options of an optimizer or schedule default to null, which stands for that rule's own default; one that the chosen
    rule does not take is refused.

    Args:
        hidden: Widths of the hidden layers; input and output follow from the data.
        activation: Activation of the hidden layers.
        init: Initialiser of weights and biases.
        norm: Normalisation before the activation of every hidden layer: ``batch``, over the samples of the minibatch,
            of which evaluation uses running statistics, or ``layer``, over the units of each sample.
        dropout: Probability to drop an activation of a hidden layer while training, in [0, 1).
        input_dropout: Probability to drop an entry of the input while training, in [0, 1).
        loss: ``cross_entropy`` (softmax included) or ``mse`` (squared error against one-hot targets).
        reduction: Whether a minibatch's gradient is the ``mean`` or the ``sum`` of its samples' gradients.
        label_smoothing: Share of each target spread over all classes, in [0, 1); for cross_entropy.
        class_weights: For cross_entropy: one positive weight for each class, in a list, or ``balanced`` for
            n / (K n_k) with n_k of the n training samples in class k, of K.
        optimizer: Update rule.
        lr: Learning rate, at least 0; the schedule multiplies it.
        momentum: For sgd, muon and rmsprop, in [0, 1).
        dampening: For sgd.
        nesterov: For sgd and muon.
        weight_decay: For all but adam_norm; added to the gradient, except in rules that decouple it (adamw, muon, …).
        decay_biases: Whether ``weight_decay`` acts on biases too (default true), or on weight matrices alone.
        beta1: For the rules that average the gradient as Adam does, in [0, 1).
        beta2: Likewise.
        eps: For the rules that divide by a root.
        amsgrad: For adam and adamw.
        alpha: For rmsprop, in [0, 1).
        centered: For rmsprop.
        momentum_decay: For nadam: how fast its momentum grows from half of beta1 to beta1, at least 0 (default 0.004).
        decoupled_weight_decay: For nadam: whether its ``weight_decay`` is decoupled (default false).
        ns_steps: For muon: Newton-Schulz iterations that make a step orthogonal, 1 to 99 (default 5).
        schedule: How the learning rate changes over the training.
        warmup_epochs: Epochs of linear rise before the schedule; fractions count.
        step_epochs: For schedule step: epochs between two drops (default 5).
        gamma: For schedule step: factor of each drop (default 0.1).
        final_factor: For schedule cosine: factor at the end (default 0).
        pct_start: For schedule one_cycle: share of the rise (default 0.3).
        clip_norm: Largest Euclidean norm of the whole gradient; null for none.
        clip_value: Largest absolute value of each entry of the gradient; null for none.
        l1: Strength λ of the L1 penalty λ Σ|w| on all weights, biases excepted: after each step every weight moves
            towards 0 by lr · λ, and stops there; at least 0.
        max_norm: Largest Euclidean norm of each unit's incoming weights, restored after each step; null for none.
        averaging: Average of the weights to validate, test and predict with, the raw weights beside it: ``ema``, an
            exponential moving average, or ``swa``, the mean over the last part of the training.
        ema_decay: For averaging ema: how much of the average one step keeps, in [0, 1) (default 0.999).
        swa_start: For averaging swa: the share of the training before its mean begins, in [0, 1) (default 0.75).
        vat: Weight λ of virtual adversarial training, which adds λ KL(p(x) ‖ p(x + r)) to the loss of each sample, r
            the small step in the input that changes the output most; at least 0, which leaves it out.
        vat_eps: For vat: Euclidean length of r, in the units of the inputs (default 2).
        vat_xi: For vat: length of the trial step that r is found with (default 1e-6, 1e-2, 0.1 or 0.3 by the dtype of
            the matrix products: 64 bits, 32 bits, float16, bfloat16).
        vat_iterations: For vat: trial steps, each of a forward and a backward pass (default 1).
        nonfinite: What a step does whose loss or gradient is a NaN or an infinity: ``stop`` ends the training, naming
            step, layer, likely cause and the checkpoint to return to; ``skip`` leaves the step out, which then changes
            nothing, and counts it.
        shard_optimizer: With several devices, whether each keeps the optimizer's state of its share of the parameters
            alone (ZeRO-1), so that n devices need 1/n of that memory each. For all optimizers but muon and adam_norm.
        overlap_reduction: With several devices, whether the gradient of each layer is summed over them while those of
            the layers before it are computed. Not with ``shard_optimizer``.
        seed: Seed of the initial weights; the command line sets it to ``seed_everything``.
    """

    def __init__(
        self,
        hidden: list[int] = [500, 250, 100],  # noqa: B006 (the command line shows it as the default)
        activation: ActivationName = "relu",
        init: InitName = "he_normal",
        norm: NormName = "none",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        loss: LossName = "cross_entropy",
        reduction: Literal["mean", "sum"] = "mean",
        label_smoothing: float = 0.0,
        class_weights: list[float] | Literal["balanced"] | None = None,
        optimizer: OptimizerName = "adam",
        lr: float = 0.001,
        momentum: float | None = None,
        dampening: float | None = None,
        nesterov: bool | None = None,
        weight_decay: float | None = None,
        decay_biases: bool | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        eps: float | None = None,
        amsgrad: bool | None = None,
        alpha: float | None = None,
        centered: bool | None = None,
        momentum_decay: float | None = None,
        decoupled_weight_decay: bool | None = None,
        ns_steps: int | None = None,
        schedule: ScheduleName = "constant",
        warmup_epochs: float = 0.0,
        step_epochs: float | None = None,
        gamma: float | None = None,
        final_factor: float | None = None,
        pct_start: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        averaging: AveragingName = "none",
        ema_decay: float | None = None,
        swa_start: float | None = None,
        vat: float = 0.0,
        vat_eps: float | None = None,
        vat_xi: float | None = None,
        vat_iterations: int | None = None,
        nonfinite: Literal["stop", "skip"] = "stop",
        shard_optimizer: bool = False,
        overlap_reduction: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters()
        check_options(self.hparams)
        if shard_optimizer and optimizer in COUPLING:
            known = ", ".join(name for name in OPTIMIZERS if name not in COUPLING)
            raise UserError(
                f"model.shard_optimizer: got true, but {optimizer} needs the whole gradient in one place; "
                f"it goes with {known}"
            )
        if overlap_reduction and shard_optimizer:
            raise UserError(
                "model.overlap_reduction: got true, but with model.shard_optimizer the gradient is summed in shares; "
                "choose one"
            )
        self.shard: Shard | None = None
        self.optimizer_options = {name: self.hparams[name] for name in OPTIMIZER_OPTIONS}
        self.schedule_options = {name: self.hparams[name] for name in SCHEDULE_OPTIONS}
        # The sum, always: the mean's scale goes in as ``dloss``, since a minibatch may be spread over devices.
        self.weigh(None if class_weights == "balanced" else class_weights)
        if class_weights == "balanced" and loss != "cross_entropy":
            raise UserError(f"model.class_weights: got balanced, but loss {loss} does not take it")
        self.curves = Curves()
        # Those of a training, on whatever device, take their place.
        self.readings = Readings(waits=False)
        self.skipped_steps = 0
        self.results: dict[str, float] = {}
        self.counts: dict[str, Tensor] = {}
        # Which weights these are of, once a training has ended or a checkpoint was given.
        self.judged: Weights | None = None
        # What a checkpoint has gathered towards the update that the steps of a fit begin with.
        self._gathered: dict[str, Any] = {}

    def configure_model(self) -> None:
        """Build the network, whose input and output widths follow from the data."""
        # Without a trainer it is ``load_from_checkpoint`` that asks: the checkpoint will tell the widths.
        if not hasattr(self, "network") and self._trainer is not None:
            datamodule = own_data(self.trainer)
            if datamodule is None:
                n_features, counts = widths_of(self.trainer)
                names = tuple(str(k) for k in range(len(counts)))
            else:
                data = datamodule.data
                n_features, names = data.n_features, data.class_names
                if self.trainer.state.fn == "fit":
                    self.check_batch_size(datamodule.batch_size)
            # A test of files alone has none that train: the checkpoint brings the weights.
            if self.hparams["class_weights"] == "balanced" and (datamodule is None or len(data.train_y)):
                self.weigh(balanced_weights(counts if datamodule is None else datamodule.part_counts["train"], names))
            self._build((n_features, *self.hparams["hidden"], len(names)))

    @property
    def step_options(self) -> dict[str, Any]:
        """The options as numbers: balanced class weights follow from the data."""
        return {**self.hparams, "class_weights": self.class_weights}

    def weigh(self, class_weights: list[float] | None) -> None:
        """Make the loss, with one weight for each class."""
        self.class_weights = class_weights
        self.loss = make_loss(
            self.hparams["loss"], "sum", label_smoothing=self.hparams["label_smoothing"], class_weights=class_weights
        )

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse minibatches that give batch norm nothing to go by; raises UserError."""
        if self.hparams["norm"] == "batch" and batch_size == 1:
            raise UserError("data.batch_size: got 1, must be at least 2 for model.norm batch")

    def check_widths(self, n_features: int, n_classes: int, trained: Sequence[int] | None = None) -> None:
        """Refuse what does not fit data of D features and K classes, or a checkpoint's widths; raises UserError."""
        weights, hidden = self.class_weights, self.hparams["hidden"]
        if weights is not None and len(weights) != n_classes:
            raise UserError(f"model.class_weights: got {len(weights)} weights, must be {n_classes}, one for each class")
        widths = [n_features, *hidden, n_classes]
        if trained is not None and list(trained) != widths:
            raise UserError(
                f"--ckpt_path: the checkpoint's layers have the widths {list(trained)}, "
                f"but data and model.hidden ask for {widths}"
            )
        check_memory(self.hparams, widths, Setting())

    def states_kept(self) -> int:
        """How many numbers the update rule keeps for each parameter."""
        # In 64 bits, for which no C functions need to be there.
        one = torch.zeros(1, dtype=torch.float64)
        rule, lr = self.hparams["optimizer"], self.hparams["lr"]
        return states_kept(make_optimizer(one, [(1, 1)], rule, lr, self.optimizer_options))

    def _build(self, sizes: tuple[int, ...]) -> None:
        self.check_widths(sizes[0], sizes[-1])
        self.train_from(network_of(self.hparams, sizes))
        self.val_sums, self.test_sums, self.raw_sums, self.deformed_sums = (Evaluation(sizes[-1]) for _ in range(4))

    def train_from(self, network: MLP) -> None:
        """Take a network to train, and a copy of it for the average of its weights if there shall be one."""
        self.network = network
        if self.hparams["averaging"] != "none":
            self.averaged_network = copy.deepcopy(network)

    def given_results(self) -> dict[str, Any]:
        """What training and evaluation came to, but for the weights, for another process to take."""
        return {
            "sizes": list(self.network.sizes),
            "class_weights": self.class_weights,
            "history": self.curves.history,
            "results": self.results,
            "counts": self.counts,
        }

    def take_results(self, results: dict[str, Any]) -> None:
        """Take another process's ``given_results``, and make a network for its weights, which are to be loaded."""
        if not hasattr(self, "network"):
            self.weigh(results["class_weights"])
            self._build(tuple(results["sizes"]))
        self.curves.history = results["history"]
        self.results, self.counts = results["results"], results["counts"]

    @property
    def metrics(self) -> list[str]:
        """Names of what callbacks can monitor in a training that validates."""
        raw = [] if self.hparams["averaging"] == "none" else ["val/raw_loss", "val/raw_accuracy"]
        return ["train/loss", *(["train/vat"] if self.hparams["vat"] else []), "val/loss", "val/accuracy", *raw]

    @property
    def evaluated_network(self) -> MLP:
        """The network that validates, tests and predicts: that of the averaged weights, where they are averaged."""
        return self.network if self.hparams["averaging"] == "none" else self.averaged_network

    def make_dropout(self, dtype: torch.dtype | None = None) -> Dropout | None:
        """What draws the masks of each step, in the dtype of the products or the parameter's; None for no dropout."""
        return make_dropout(self.network, self.hparams, dtype or self.network.flat.dtype)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The update rule on the one flat parameter, or on this process's share of it; raises UserError."""
        rule = self.make_optimizer(self.network)
        if not (self.hparams["shard_optimizer"] and self.trainer.world_size > 1):
            return rule
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise UserError(
                "model.shard_optimizer: got true, but trainer.precision 16-mixed looks for overflow in the whole "
                "gradient; use bf16-mixed"
            )
        self.shard = Shard(self.network.flat.numel(), self.network.flat.device)
        return self.shard.cut_(rule)

    def make_optimizer(self, network: MLP) -> torch.optim.Optimizer:
        """The update rule on a network."""
        return rule_of(self.hparams, network)

    def make_schedule(self, steps_per_epoch: int, total_steps: float) -> Schedule:
        """The multiplier of the learning rate for a training of that length."""
        return schedule_of(self.hparams, steps_per_epoch, total_steps)

    def make_adversary(self, dtype_of_products: torch.dtype | None = None) -> VirtualAdversary | None:
        """What adds the term of virtual adversarial training; None for none."""
        vat, options = self.hparams["vat"], {name: self.hparams[name] for name in ADVERSARY_OPTIONS}
        loss = self.hparams["loss"]
        return make_adversary(self.network, vat, options, loss=loss, dtype_of_products=dtype_of_products)

    def make_averaging(self, total_steps: float) -> Averaging | None:
        """The share of the newest weights in their average for a training of that length; None for no average."""
        return averaging_of(self.hparams, total_steps)
