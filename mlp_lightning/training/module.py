"""The LightningModule: one hand-derived step per minibatch; Lightning runs the loops around it."""

import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from mlp_lightning.data.batches import Batch, Batches
from mlp_lightning.data.length import length_of
from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.engines.choice import AUTO, Chosen, choose
from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.engines.passes import FEW_ROWS, Passes
from mlp_lightning.engines.ranks import gather_from_ranks, sum_over_ranks
from mlp_lightning.engines.readings import Readings
from mlp_lightning.engines.recipe import StepRecipe, Workers
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.optim import UpdateRule
from mlp_lightning.optim.averaging import average_network_
from mlp_lightning.training.configured import ConfiguredModule
from mlp_lightning.training.curves import check_finite, means
from mlp_lightning.training.evaluation import Evaluation, accuracy, mean_output
from mlp_lightning.training.gradient_hooks import GradientHooks
from mlp_lightning.training.listeners import listens_to_gradients, unheard_hooks
from mlp_lightning.training.loaders import as_batch, described, own_data
from mlp_lightning.training.recipes import recipe_of
from mlp_lightning.training.runs.own_files import forget_paths
from mlp_lightning.training.runs.return_point import check_state, newest_finite
from mlp_lightning.training.take_up import check_content, check_training, check_weights
from mlp_lightning.training.trained_options import check_trained

# The dtype of the matrix products where it is not the parameter's.
PRODUCTS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

# What belongs to one fit: memory of C functions and closures, which cannot be copied; the next fit makes its own.
OF_ONE_FIT = ("chosen", "_evaluator", "_schedule", "_averaging")


class MLPModule(ConfiguredModule):
    """Trains, validates and tests what ConfiguredModule makes; its options are explained there."""

    chosen: Chosen
    _lets_steps_pass = False

    def __getstate__(self) -> dict[str, Any]:
        # Lightning's leaves the trainer out.
        state = {name: value for name, value in super().__getstate__().items() if name not in OF_ONE_FIT}
        return {**state, "readings": Readings(waits=False), "shard": None}

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, and the one in which Lightning notes the running hook, 20 times a step, the short way."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of inputs ``(B, D)``."""
        return self.evaluated_network(x)[0]

    def on_fit_start(self) -> None:
        """Forget the engine of an earlier fit."""
        self.__dict__.pop("chosen", None)

    def choose_engine(self) -> Chosen:
        """Make the engine of this fit, once; raises UserError if the one that was asked for refuses."""
        if "chosen" not in self.__dict__:
            self.readings = Readings(waits=self.device.type != "cpu")
            self.chosen = choose(self.make_recipe(self._optimizer()), getattr(self.trainer, "engine", AUTO))
        return self.chosen

    def on_train_start(self) -> None:
        """Fix the schedule, now that the length of the training is known, and make the memory of the steps."""
        trainer = self.trainer
        length = length_of(trainer, int(trainer.num_training_batches))
        self._schedule = self.make_schedule(length.steps_per_epoch, length.steps)
        self._averaging = self.make_averaging(length.steps)
        # A resumed optimizer brings the checkpoint's settings: those given now count.
        optimizer = self._optimizer()
        optimizer.param_groups[0].update(self.configure_optimizers().defaults)
        self.choose_engine()
        self.engine.finiteness.begin(self.global_step)
        # Like the steps in memory that is kept, for a few samples at a time.
        self._evaluator = self.engine.evaluator(self.evaluated_network, FEW_ROWS)
        # The sum is that of all processes: one of them takes it up.
        self.engine.resume(self._gathered, takes_gradient=self.global_rank == 0)
        self._gathered = {}
        if isinstance(trainer.train_dataloader, Batches):
            self.engine.prepare(trainer.train_dataloader.train_sizes)
        self.ready_at = time.perf_counter()

    def make_recipe(self, optimizer: UpdateRule) -> StepRecipe:
        """What the steps of a fit consist of."""
        trainer, options = self.trainer, self.hparams
        return recipe_of(
            options,
            self.network,
            self.loss,
            optimizer,
            PRODUCTS.get(trainer.precision),
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            workers=Workers(
                size=trainer.world_size,
                shard=self.shard,
                overlap=options["overlap_reduction"] and trainer.world_size > 1,
            ),
            accumulate=getattr(trainer, "minibatches_per_update", 1),
            nonfinite="ignore" if self._lets_steps_pass else options["nonfinite"],
            readings=self.readings,
            hooks=GradientHooks(trainer, self, optimizer) if self._hears_gradients() else None,
        )

    @property
    def engine(self) -> Engine:
        """What makes the steps of this fit."""
        return self.chosen.engine

    def _hears_gradients(self) -> bool:
        """Whether a hook is to be called around each gradient; says which ones nobody calls."""
        unheard = unheard_hooks(self, (self.network, self.evaluated_network))
        if unheard:
            text = f"{', '.join(unheard)}: not called in the training, whose steps are derived by hand"
            self.print(f"{type(self).__name__}: {text}", file=sys.stderr)
        return listens_to_gradients(self.trainer, self, MLPModule)

    def let_steps_pass(self) -> None:
        """Compute steps that are not finite like any others, in the trainings that start from now on."""
        self._lets_steps_pass = True

    def as_batch(self, batch: Any) -> Batch:
        """A minibatch as the steps take it; raises UserError for what is no pair of samples and classes."""
        if isinstance(batch, Batch):
            return batch
        return as_batch(batch, self.network.flat, self.global_rank, self.trainer.world_size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of gradient descent, or a minibatch's part in it, with what Lightning does around it.

        Returns:
            The loss of this process's share of the minibatch, for callbacks.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        # What counts the steps. LightningOptimizer.step puts a closure for autograd, the precision plugin and a row of
        # hooks between this and the rule, which cost a small network a tenth of its step.
        updates = self.completes_update
        if updates:
            optimizer._on_before_step()
        # The mathematics rounds by hand where it is to round: not a second time behind its back.
        with torch.autocast(self.device.type, enabled=False), torch.inference_mode():
            self.hand_step(batch, self.global_step, updates=updates)
        if self.engine.hooks is None:
            # Where torch's users look for it; a hook may have put another tensor there.
            self.network.flat.grad = self.network.flat_grad
        if not updates:
            return self.engine.loss_of_batch
        optimizer._on_after_step()
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.record_steps()
        # Whoever sees this step sees what was recorded up to it.
        self.read()
        return self.engine.loss_of_batch

    def _show(self, values: dict[str, float]) -> None:
        """Give values to the progress bar and to callbacks, as ``log_dict`` would; that takes longer than a step."""
        self.trainer.progress_bar_metrics.update(values)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})

    def hand_step(self, batch: Batch, step: int, *, updates: bool = True, keep_gradient: bool = True) -> None:
        """Step ``step``, counted from 0, without Lightning: update the weights, and add to the curves.

        Args:
            batch: this process's share of the minibatch.
            step: the number of the update that it belongs to.
            updates: whether that comes after this minibatch, or after a later one.
            keep_gradient: as ``Engine``'s.

        Raises:
            NotFinite: the step was not finite, and is not to be skipped.
        """
        batch = self.as_batch(batch)
        lr = self.hparams["lr"] * self._schedule(step)
        with self._naming_a_checkpoint():
            loss_sum, normalizer = self.engine(batch, lr, step=step, updates=updates, keep_gradient=keep_gradient)
        skipped = self.engine.finiteness.skipped
        if skipped and updates:
            self.skipped_steps += 1
        else:
            # On every process, though its share may be empty or not finite: all of them must sum the same names.
            self._add_to_curve("train/loss", loss_sum, normalizer, skipped)
            if self.adversary is not None:
                self._add_to_curve("train/vat", self.adversary.divergence, len(batch.x), skipped)
            if updates:
                self._average(step)
        if self._validates_within_steps:
            self._validate_within_step(batch)

    @property
    def makes_many(self) -> bool:
        """Whether ``hand_steps`` can make several steps at a time."""
        is_own = getattr(self.hand_step, "__func__", None) is MLPModule.hand_step
        # A loader of anyone else's hands out minibatches of any kind and size.
        is_ours = getattr(self.trainer.train_dataloader, "hands_out_batches", False)
        if self._averaging is not None or not (is_own and is_ours) or self.engine.one_by_one is not None:
            return False
        return self.engine.evaluates_steps or not self._validates_within_steps

    def hand_steps(self, batches: Sequence[Batch], step: int) -> Iterator[int]:
        """``hand_step`` of one minibatch after another, several in one go; yields how many at a time.

        Args:
            batches: whole minibatches of as many samples each.
            step: the number of the first.

        Raises:
            NotFinite: as ``hand_step``.
        """
        rates = [self.hparams["lr"] * self._schedule(step + k) for k in range(len(batches))]
        made, evaluator = 0, self._evaluator if self._validates_within_steps else None
        with self._naming_a_checkpoint():
            for several in self.engine.steps(batches, rates, step, evaluator):
                self._add_to_curve("train/loss", several.loss_sum, several.normalizer, skipped=False)
                if several.evaluated is not None:
                    loss_sum, right = several.evaluated
                    n_samples = len(batches[0].val_y)
                    self._add_validation(loss_sum, float(n_samples), torch.tensor(right), n_samples)
                made += several.n_steps
                yield several.n_steps
        for k in range(made, len(batches)):
            self.hand_step(batches[k], step + k, keep_gradient=False)
            yield 1

    def _add_to_curve(self, name: str, amount: float | Tensor, weight: float | Tensor, skipped: bool) -> None:
        nothing = torch.zeros_like(amount) if isinstance(amount, Tensor) else 0.0
        self.curves.add(name, nothing if skipped else amount, 0.0 if skipped else weight)

    def _average(self, step: int) -> None:
        """Let the averages follow an update that was made."""
        if self._averaging is not None:
            average_network_(self.averaged_network, self.network, self._averaging(step))

    def _look(self) -> None:
        """Find what the steps' own looks pass over or have not read yet; raises NotFinite."""
        self._ask_whether_finite()
        self.read()

    def _ask_whether_finite(self) -> None:
        # Where nothing was left to train there was no step.
        if not hasattr(self, "chosen"):
            return
        with self._naming_a_checkpoint():
            self.engine.finiteness.ask(self.global_step, self._optimizer().param_groups[0]["lr"])

    def read(self, count: int | None = None) -> None:
        """Read so many of the numbers that wait on the device, or all; raises NotFinite, as a step would have."""
        with self._naming_a_checkpoint():
            self.readings.read(count)

    @contextmanager
    def _naming_a_checkpoint(self) -> Iterator[None]:
        """A step that is not finite is told with the checkpoint to return to."""
        try:
            yield
        except NotFinite as error:
            error.checkpoint = newest_finite(self.trainer)
            raise

    @property
    def completes_update(self) -> bool:
        """Whether the running minibatch is the last of its update, with ``trainer.accumulate_grad_batches``."""
        return not self.trainer.fit_loop.epoch_loop._should_accumulate()

    @property
    def passes(self) -> Passes:
        """What makes the passes of this fit's steps."""
        return self.engine.passes

    @property
    def adversary(self) -> VirtualAdversary | None:
        """What adds the term of virtual adversarial training to the steps of this fit."""
        return self.engine.recipe.adversary

    @property
    def samples_seen(self) -> int:
        """Samples that the steps of this fit have trained on, over all processes."""
        return self.engine.samples_seen if hasattr(self, "chosen") else 0

    @property
    def _validates_within_steps(self) -> bool:
        data = own_data(self.trainer)
        return data is not None and data.validation == "per_batch"

    def _validate_within_step(self, batch: Batch) -> None:
        """The notebook's validation: after the step, on the rest of the same minibatch."""
        logits, loss_sum = self._evaluator(batch.val_x, batch.val_y)
        right = (logits.argmax(1) == batch.val_y).sum()
        self._add_validation(loss_sum, self.loss.normalizer(logits, batch.val_y), right, len(batch.val_y))

    def _add_validation(
        self, loss_sum: float | Tensor, normalizer: float | Tensor, right: Tensor, n_samples: int
    ) -> None:
        self.curves.add("val/loss", loss_sum, normalizer)
        self.curves.add("val/accuracy", right, n_samples)

    def record_steps(self) -> None:
        """Record and show the means over the steps since the last record, and the learning rate.

        Where the numbers of this record wait for the device, those of the records before it are read.
        """
        behind = len(self.readings)
        self._ask_whether_finite()
        names, sums = self.curves.take(sum_over_ranks)
        beside = {"optim/lr": self._optimizer().param_groups[0]["lr"]}
        if self.hparams["nonfinite"] == "skip":
            beside["health/skipped_steps"] = float(self.skipped_steps)
        step = self.global_step

        def finish(numbers: list[float]) -> None:
            found = means(names, numbers)
            self.record(found | beside, step)
            self._show(found)

        self.readings.ask(sums, finish)
        self.read(behind)

    def record(self, values: dict[str, float], step: int) -> None:
        """Add scalars at a step to the curves and to the logger; raises UserError if one is not finite."""
        self.curves.append(step, values)
        if self.logger is not None:
            self.logger.log_metrics(values, step)

    def on_train_epoch_end(self) -> None:
        """Let no epoch end on weights that are not finite."""
        self._look()

    def on_train_end(self) -> None:
        """Record the steps since the last record, so that none is lost."""
        if self.curves.pending:
            self.record_steps()
            self.read()

    def on_fit_end(self) -> None:
        """Do the same for a checkpoint after whose last step nothing was left to train."""
        self.on_train_end()

    def on_validation_start(self) -> None:
        """Let no validation within a training find what its steps are to blame for."""
        if self.trainer.state.fn == "fit":
            self._look()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation sums."""
        self._evaluate(self.val_sums, self.as_batch(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add a batch to the test sums; returns the logits for whoever draws them."""
        data, batch = own_data(self.trainer), self.as_batch(batch)
        copies = [] if data is None else list(data.test_copies(batch, batch_idx))
        if copies:
            self._add(self.deformed_sums, mean_output(map(self, copies), self.loss), batch)
        return self._evaluate(self.test_sums, batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities ``(B, K)`` of the classes, softmax of the outputs."""
        with torch.autocast(self.device.type, enabled=False):
            return torch.softmax(self(self.as_batch(batch).x), 1)

    def _evaluate(self, evaluation: Evaluation, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            logits = self(batch.x)
            self._add(evaluation, logits, batch)
            if self.evaluated_network is not self.network:
                self._add(self.raw_sums, self.network(batch.x)[0], batch)
        return logits

    def _add(self, evaluation: Evaluation, logits: Tensor, batch: Batch) -> None:
        loss_sum, _ = self.loss.forward(logits, batch.y)
        evaluation.update(logits, batch.y, loss_sum, self.loss.normalizer(logits, batch.y))

    def on_validation_epoch_end(self) -> None:
        """Loss and accuracy of the whole validation set.

        With ``per_batch`` the curves are those of the steps, as in the notebook: this exact value then only steers
        checkpoints and early stopping.
        """
        in_steps = self.trainer.state.fn == "fit" and self._validates_within_steps
        self._finish("val", self.val_sums, record=not in_steps and not self.trainer.sanity_checking)

    def on_test_epoch_end(self) -> None:
        """Loss and accuracy of the test set."""
        self._finish("test", self.test_sums, record=True)

    def _finish(self, name: str, evaluation: Evaluation, *, record: bool) -> None:
        loss, self.counts[name] = evaluation.finish()
        values = {f"{name}/loss": loss, f"{name}/accuracy": accuracy(self.counts[name])}
        if self.evaluated_network is not self.network:
            raw_loss, raw_counts = self.raw_sums.finish()
            values |= {f"{name}/raw_loss": raw_loss, f"{name}/raw_accuracy": accuracy(raw_counts)}
        data = own_data(self.trainer)
        if name == "test" and data is not None and data.test_deformations:
            deformed_loss, deformed_counts = self.deformed_sums.finish()
            values |= {"test/deformed_loss": deformed_loss, "test/deformed_accuracy": accuracy(deformed_counts)}
        check_finite(self.global_step, values)
        # What Lightning logs of an evaluation it returns and prints too; our own Trainer has tables for it.
        returns = self.trainer.state.fn != "fit" and not getattr(self.trainer, "has_tables", False)
        # The processes agree already; without sync_dist Lightning warns that they might not.
        self.log_dict(values, prog_bar=name == "val", logger=None if returns else False, sync_dist=True)
        self.results |= values
        if name == "val" and self.trainer.state.fn == "fit":
            self.results["val/step"] = self.global_step
        if record and returns:
            self.curves.append(self.global_step, values)
        elif record:
            self.record(values, self.global_step)

    def take_validation(self, checkpoint: dict[str, Any]) -> None:
        """Put the validation results of a checkpoint in the place of this training's latest."""
        kept = {name: value for name, value in self.results.items() if not name.startswith("val/")}
        results, counts = checkpoint.get("results", {}), checkpoint.get("counts", {})
        self.results = kept | {name: value for name, value in results.items() if name.startswith("val/")}
        self.counts.pop("val", None)
        self.counts |= {"val": counts["val"]} if "val" in counts else {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights alone do not say; raises NotFinite."""
        # The best one is written in the validation of a training.
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self._look()
            check_state(self.global_step, checkpoint)
        if not hasattr(self, "network"):
            # Of a fit that failed before there was one: what failed is to be told, not this.
            return
        checkpoint["skipped_steps"] = self.skipped_steps
        checkpoint["sizes"] = list(self.network.sizes)
        checkpoint["norm"] = self.network.norm
        checkpoint["class_weights"] = self.class_weights
        # A module that was made by hand need not have data.
        if self._trainer is not None:
            data = own_data(self.trainer)
            checkpoint["data"] = described(self.network.sizes) if data is None else data.description()
        checkpoint["history"] = self.curves.history
        checkpoint["window"] = self.curves.window(sum_over_ranks)
        # As many processes go on with their own sums, to the last bit; others share the sum of all.
        checkpoint["windows"] = gather_from_ranks(self.curves.window(torch.Tensor.cpu))
        gathered = self.engine.gathered_state() if hasattr(self, "chosen") else {}
        if gathered:
            checkpoint["gathered"] = gathered
        checkpoint["results"], checkpoint["counts"] = dict(self.results), dict(self.counts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the history, and build the network where no data has told its sizes; raises UserError."""
        check_content(checkpoint)
        if not hasattr(self, "network"):
            self._build(tuple(checkpoint["sizes"]))
        datamodule = None if self._trainer is None else own_data(self.trainer)
        if datamodule is not None and "data" in checkpoint and self.trainer.state.fn is not None:
            datamodule.resume(checkpoint["data"], self.trainer.state.fn.value)
        # Those of a training that goes on follow from its data, as they did when it began.
        if self.hparams["class_weights"] == "balanced" and self.class_weights is None:
            self.weigh(checkpoint.get("class_weights"))
        self.check_widths(self.network.sizes[0], self.network.sizes[-1], checkpoint["sizes"])
        norm = checkpoint.get("norm", "none")
        if self.network.norm != norm:
            raise UserError(f"model.norm: got {self.network.norm}, but the checkpoint of --ckpt_path has {norm}")
        check_weights(self, checkpoint)
        if self._trainer is None:
            return
        forget_paths(self.trainer.callbacks, checkpoint.get("callbacks", {}))  # type: ignore[attr-defined]
        if self.trainer.state.fn != "fit":
            return
        check_training(self, checkpoint)
        self.curves.history = checkpoint["history"]
        self.skipped_steps = checkpoint.get("skipped_steps", 0)
        # What was validated last, should nothing be left to train.
        self.results |= checkpoint.get("results", {})
        self.counts |= checkpoint.get("counts", {})
        self.curves.resume(self._own_window(checkpoint["window"], checkpoint.get("windows", [])))
        self._gathered = checkpoint.get("gathered", {})

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Lightning's, of a checkpoint that was read as data only and checked; raises UserError as ``load``."""
        checkpoint = read_checkpoint(checkpoint_path, option="load_from_checkpoint")
        check_trained(checkpoint, checkpoint_path, "load_from_checkpoint")
        file = io.BytesIO()
        torch.save(checkpoint, file)
        file.seek(0)
        return super().load_from_checkpoint(file, *args, **{**kwargs, "weights_only": True})

    def _own_window(self, window: dict[str, list[Tensor]], windows: list[dict[str, list[Tensor]]]) -> Any:
        """This process's part of the sums that a checkpoint left between two readings."""
        if len(windows) == self.trainer.world_size:
            return windows[self.global_rank]
        # Of another number of processes: one takes up their sums. The others have the same names: where nothing is
        # left to train, all of them read at once.
        if self.global_rank == 0:
            return window
        return {name: [torch.zeros_like(part) for part in pair] for name, pair in window.items()}

    def _optimizer(self) -> UpdateRule:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, UpdateRule)
        return optimizer
