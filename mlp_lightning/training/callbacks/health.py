"""The callback that watches the health of a training: norms, units, deltas, gradient noise, and warnings in words."""

import math
import sys
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.errors import UserError
from mlp_lightning.nn.diagnostics import NoiseScale
from mlp_lightning.training.callbacks.health_figures import minibatch_figures, step_figures
from mlp_lightning.training.callbacks.symptoms import Figures, Symptoms
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.run_folder import tensorboard


class Health(pl.Callback):
    """Measures steps at which the module records its curves: one record, made every ``log_every_n_steps``, in so many.

    Tags, all under ``health/``; norms are Euclidean and those of a layer are of W, without its bias:

    - ``weight_norm/layer k``, before the step; ``update_norm/layer k``, ‖ΔW‖; ``update_ratio/layer k``, ‖ΔW‖/‖W‖;
      ``gradient_norm/layer k``, of the gradient as the step used it: mean or sum as ``model.reduction`` says, summed
      over devices, clipped.
    - ``delta_mean_abs/layer k`` and ``delta_rms/layer k``, of dZ_k; ``sample_gradient_norm/mean``, ``/rms`` and
      ``/max`` over the samples, of all weights and biases; ``mean_gradient_norm``, of the mean of the samples'
      gradients. These belong to single samples, before any clipping, so neither batch size nor reduction scales them.
      (With class weights and reduction mean a sample counts by its weight over the minibatch's mean weight.)
    - ``dead/layer k`` and, for sigmoid and tanh, ``saturated/layer k``, of the hidden layers.
    - with ``model.norm``, ``norm_weight/layer k`` and ``norm_bias/layer k``, the root mean squares of γ and β before
      the step, and ``norm_gradient/layer k``, the norm of both their gradients as the step used them.
    - ``noise_scale``, in samples, averaged over about the last ten records; left out while there is no estimate.

    A second forward and backward pass right before the step sees the weights, activations and deltas of the step
    itself, and leaves the network's gradient as it was. It draws no random number, and the training is bitwise the same
    without it. The device is waited for once a record. Dropout is left out of it: a unit that was dropped once is
    neither dead nor quiet. Batch norm takes the statistics of the minibatch as the step does, and the gradient of a
    single sample is its summand in that of the minibatch.

    Where several minibatches make an update the last of them is measured; the gradient and the update are those of all.

    With several devices rank 0 measures its own share of the minibatch, and skips a record where it has no sample;
    batch norm then takes the statistics of that share. The gradient and the update of the step are those of all.
    Medians and averages go on when a training resumes.

    Each warning is printed once for its kind and layer, by ``LightningModule.print``: one line above the progress bar,
    on rank 0, where ``warnings.warn`` adds a file and a line of code that mean nothing to whoever trains, and a logger
    writes into the middle of the bar. TensorBoard's text ``health/warnings`` keeps all of them.

    Args:
        every_n_records: one record in how many is measured, at least 1. A measurement takes as long as two or three
            steps of a small network.
    """

    def __init__(self, every_n_records: int = 1) -> None:
        self.every_n_records = every_n_records
        self._before_step: tuple[int, dict[str, Tensor], list[Tensor], int] | None = None
        self._symptoms: Symptoms | None = None
        self._earlier: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start empty, or with the state of the training that is resumed."""
        assert isinstance(pl_module, MLPModule)
        self._symptoms = Symptoms(len(pl_module.network.layers), pl_module.network.activation)
        self._noise_scale = NoiseScale()
        self._warnings: list[str] = []
        self._before_step = None
        if self._earlier:
            self._symptoms.resume(self._earlier["symptoms"])
            self._noise_scale.resume(self._earlier["noise_scale"])
            self._warnings += self._earlier["warnings"]
        if pl_module.device.type == "cuda":
            # The first use of each kernel loads it, which the first record would wait for.
            n_samples, network = getattr(trainer.train_dataloader, "batch_size", 1), pl_module.network
            x, y = network.flat.new_zeros(n_samples, network.sizes[0]), network.flat.new_zeros(n_samples).long()
            minibatch_figures(network, pl_module.loss, x, y, pl_module.hparams["reduction"])

    def state_dict(self) -> dict[str, Any]:
        """What the records so far have come to."""
        if self._symptoms is None:
            return self._earlier
        return {
            "symptoms": self._symptoms.state(),
            "noise_scale": self._noise_scale.state(),
            "warnings": list(self._warnings),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it for the start of the training."""
        self._earlier = state_dict

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Measure the minibatch and keep the weights, if the step to come is one that is recorded."""
        assert isinstance(pl_module, MLPModule)
        if self.measures(trainer, trainer.global_step + 1) and pl_module.completes_update:
            self.before_step(trainer, pl_module, batch)

    def measures(self, trainer: pl.Trainer, step: int) -> bool:
        """Whether a step, counted from 1, is one of those that are measured."""
        return step % (trainer.log_every_n_steps * self.every_n_records) == 0  # type: ignore[attr-defined]

    def before_step(self, trainer: pl.Trainer, pl_module: MLPModule, batch: Batch) -> None:
        """Measure the minibatch that completes the next step, and keep the weights."""
        batch = pl_module.as_batch(batch)
        if not (trainer.is_global_zero and len(batch.y)):
            return
        network = pl_module.network
        targets = batch.targets(network.sizes[-1], batch.x.dtype)
        gathered = network.flat_grad.clone() if getattr(trainer, "minibatches_per_update", 1) > 1 else None
        measured = minibatch_figures(network, pl_module.loss, batch.x, targets, pl_module.hparams["reduction"])
        if gathered is not None:
            network.flat_grad.copy_(gathered)
        step = trainer.global_step + 1
        self._before_step = step, measured, [layer.weight.clone() for layer in network.layers], len(batch.y)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Measure the step, log, warn."""
        assert isinstance(pl_module, MLPModule)
        self.after_step(trainer, pl_module)
        pl_module.read()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Finish the record of a step that ended the training because it was not finite: the record tells more."""
        if isinstance(exception, UserError) and self._before_step is not None:
            assert isinstance(pl_module, MLPModule)
            self.after_step(trainer, pl_module)
            pl_module.readings.read()

    def after_step(self, trainer: pl.Trainer, module: MLPModule) -> None:
        """Measure the step, if it was to be measured; log and warn once the module reads the figures."""
        if self._before_step is None:
            return
        (step, measured, weights, n_samples), self._before_step = self._before_step, None
        measured |= step_figures(module.network, weights)

        def tell(values: list[float]) -> None:
            self._tell(trainer, module, dict(zip(measured, values, strict=True)), step, n_samples)

        module.readings.ask(torch.stack([value.float() for value in measured.values()]), tell)

    def _tell(self, trainer: pl.Trainer, module: MLPModule, figures: Figures, step: int, n_samples: int) -> None:
        assert self._symptoms is not None
        # What a step that is left out measured would stay in the average.
        if n_samples > 1 and math.isfinite(figures["sample_gradient_norm/rms"]):
            square, square_of_mean = figures["sample_gradient_norm/rms"] ** 2, figures["mean_gradient_norm"] ** 2
            self._noise_scale.update(square, square_of_mean, n_samples)
            if self._noise_scale.value is not None:
                figures["noise_scale"] = self._noise_scale.value
        if trainer.logger is not None:
            trainer.logger.log_metrics({f"health/{name}": figure for name, figure in figures.items()}, step)
        self._warn(trainer, module, self._symptoms.find(figures, step), step)

    def _warn(self, trainer: pl.Trainer, module: MLPModule, lines: list[str], step: int) -> None:
        for line in lines:
            module.print(line, file=sys.stderr)
        self._warnings += lines
        writer = tensorboard(trainer)
        if lines and writer is not None:
            writer.add_text("health/warnings", "\n".join(f"- {line}" for line in self._warnings), step)
