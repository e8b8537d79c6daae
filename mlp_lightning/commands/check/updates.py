"""The first steps of the training itself, link by link, against autograd, torch.optim and its schedulers."""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mlp_lightning.commands.check import oracle_rules as check_oracle_rules
from mlp_lightning.commands.check.averaging import AverageBeside
from mlp_lightning.commands.check.beside import Beside
from mlp_lightning.commands.check.verdict import Row, Table, compare
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.choice import AUTO
from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.training.module import PRODUCTS, MLPModule
from mlp_lightning.training.options import make_schedule
from mlp_lightning.training.trainer import Trainer

STEPS = 20
# Steps that are one call of an engine.
GROUP = 7
PRECISIONS = {"64-true": "float64", "32-true": "float32", "bf16-mixed": "bf16-mixed"}
# Learning rates are cheap: those of a whole training are compared, up to here.
MOST_LEARNING_RATES = 20_000
LEARNING_RATE_TOLERANCE = 1e-10


class _StopAt(pl.Callback):
    """Ends a training after so many steps, which end a group."""

    def __init__(self, steps: int) -> None:
        self.steps, self.taken = steps, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Stop there."""
        self.taken = trainer.global_step
        trainer.should_stop = self.taken >= self.steps


class _Minibatches(pl.LightningDataModule):
    """An epoch of the user's length in which the minibatches at hand come over and over."""

    hands_out_batches = True
    # No minibatch brings samples that validate, whatever the user's split.
    validation = "holdout"

    def __init__(self, batches: Sequence[Batch], length: int) -> None:
        super().__init__()
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(itertools.cycle(self.batches), self.length)

    def train_dataloader(self) -> "_Minibatches":
        """Itself."""
        return self

    def val_dataloader(self) -> "_Minibatches":
        """Itself: it is not asked for, but Lightning warns of a module that cannot validate."""
        return self


@dataclass(frozen=True)
class Training:
    """What copies of a module are trained by.

    Args:
        module: with its network; it stays as it is.
        batches: at least one, on the CPU.
        steps_per_epoch: of the whole training, at least 1.
        total_steps: of the whole training, at least 1; infinite when it has no end.
    """

    module: MLPModule
    batches: Sequence[Batch]
    steps_per_epoch: int
    total_steps: float

    def run(
        self, precision: Any, engine: str, callbacks: list[pl.Callback], *, group: int = 1, lets_pass: bool = False
    ) -> MLPModule:
        """A copy of the module after a training in groups of so many steps, which callbacks end.

        Raises:
            NotFinite: a step is not finite, unless they are to pass.
            RefusedError: the engine refuses.
        """
        copy = _copy(self.module)
        if lets_pass:
            # No step ends the comparison: what is not finite fails it.
            copy.let_steps_pass()
        with _silent_lightning():
            trainer = Trainer(
                accelerator="cpu",
                devices=1,
                precision=precision,
                max_epochs=-1,
                max_steps=-1 if math.isinf(self.total_steps) else int(self.total_steps),
                limit_val_batches=0,
                log_every_n_steps=STEPS + 1,
                callbacks=callbacks,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                steps_per_execution=group,
                engine=engine,
            )
            batches = self.batches
            if precision == "64-true":
                batches = [batch._replace(x=batch.x.to(torch.float64)) for batch in batches]
            trainer.fit(copy, _Minibatches(batches, self.steps_per_epoch))
        return copy


def check_updates(training: Training, precision: str, engine: str = AUTO) -> list[Table]:
    """Train copies for 20 steps: one step at a time with torch's beside each, and in groups against single ones.

    Args:
        training: of the steps.
        precision: a key of ``PRECISIONS``.
        engine: what makes the steps, a key of ``ENGINES``, or ``auto``.

    Raises:
        RefusedError: the engine refuses.
    """
    module, batches, total_steps = training.module, training.batches, training.total_steps
    options = module.step_options
    steps = int(min(STEPS, total_steps))
    rates = check_oracle_rules.learning_rates(
        options, int(min(MOST_LEARNING_RATES, total_steps)), training.steps_per_epoch, total_steps
    )
    products = PRODUCTS.get(precision)
    beside = Beside(module.network, options, steps, products)
    average = [AverageBeside(options, total_steps)] if options["averaging"] != "none" else []
    trained = training.run(precision, engine, [beside, *average], lets_pass=True)
    schedule = make_schedule(
        options["schedule"],
        module.schedule_options,
        warmup_epochs=options["warmup_epochs"],
        steps_per_epoch=training.steps_per_epoch,
        total_steps=total_steps,
    )
    rows = [
        _compare_rates("learning rate", beside.rates, rates[:steps]),
        _compare_rates("learning rate by schedule", [options["lr"] * schedule(t) for t in range(len(rates))], rates),
        *beside.rows(),
        *(row for callback in average for row in callback.rows(module)),
    ]
    amplification = check_oracle_rules.amplification(options)
    oracle = "Muon's by SVD, of biases against torch's AdamW," if options["optimizer"] == "muon" else "torch.optim's"
    operations = f"64 + √P + {amplification:.0f}" if amplification else "64 + √P"
    weak = (
        f" and {amplification:.0f} eps, ours and thrice float64's, of that along one direction" if amplification else ""
    )
    name = trained.engine.name
    part = f"updates, {PRECISIONS[precision]}"
    if engine != AUTO:
        part += f", engine {name}"
    tolerance = "as above" if products is None else "within four times autograd's error in bfloat16"
    caption = (
        f"{len(beside.rates)} steps of {options['optimizer']}, schedule {options['schedule']}, in "
        f"{PRECISIONS[precision]}, made by the engine {name}, minibatches of {len(batches[0].y)} samples: every step "
        "beside torch's from the same weights.\n"
        f"Gradients, clipped if so configured, against torch.autograd's; movements of the weights against {oracle} "
        "for the same gradient and learning rate.\n"
        f"Tolerated: gradients {tolerance}; movements, {beside.roundings:.0f} roundings of each weight and "
        f"({operations}) eps of the largest movement{weak}, P = {module.network.flat.numel():,}."
        f"{beside.remark}"
    )
    makes_groups = type(trained.engine).steps is not Engine.steps
    groups = _check_groups(training, precision, engine, steps, part) if makes_groups else []
    return [Table(part, caption, rows), *groups]


def _check_groups(training: Training, precision: str, engine: str, steps: int, part: str) -> list[Table]:
    """Steps of which several are one call of the engine: their weights equal those of single steps, to the bit.

    No table where the engine makes one step a call, or a step is not finite, which the table of the updates shows.
    """
    try:
        stop = _StopAt(steps)
        together = training.run(precision, engine, [stop], group=GROUP)
        if together.engine.one_by_one is not None:
            return []
        # A group may end after that step.
        single = training.run(precision, engine, [_StopAt(stop.taken)])
    except NotFinite:
        return []
    caption = (
        f"{stop.taken} steps in groups of {GROUP}, which are one call of the engine as in fit, against single steps.\n"
        "Tolerated: nothing, since the bits are the same."
    )
    ours, expected = (module.network.flat.detach() for module in (together, single))
    row = compare(f"all parameters, after step {stop.taken}", ours, expected.to(torch.float64), 0.0)
    return [Table(f"groups of {part}", caption, [row])]


def _compare_rates(name: str, ours: list[float], expected: Tensor) -> Row:
    allowed = LEARNING_RATE_TOLERANCE * float(expected.max())
    return compare(f"{name}, steps 1–{len(ours)}", torch.tensor(ours, dtype=torch.float64), expected, allowed)


def _copy(module: MLPModule) -> MLPModule:
    """Another module of the same options and weights, which no trainer holds yet."""
    # LightningCLI adds an entry of its own, with an underscore.
    copy = MLPModule(**{name: value for name, value in module.hparams.items() if not name.startswith("_")})
    copy.weigh(module.class_weights)
    copy.train_from(deepcopy(module.network).cpu())
    return copy


@contextlib.contextmanager
def _silent_lightning() -> Iterator[None]:
    """Without what Lightning says about devices whenever a trainer is made."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
