"""The first steps of the training itself, link by link, against autograd, torch.optim and its schedulers."""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from copy import deepcopy

import lightning.pytorch as pl
import torch
from torch import Tensor

from mlp_lightning.commands.check import oracle_rules as check_oracle_rules
from mlp_lightning.commands.check.averaging import AverageBeside
from mlp_lightning.commands.check.beside import Beside
from mlp_lightning.commands.check.verdict import Row, Table, compare, dtype_name
from mlp_lightning.data.batches import Batch
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.options import make_schedule

STEPS = 20
# Learning rates are cheap: those of a whole training are compared, up to here.
MOST_LEARNING_RATES = 20_000
LEARNING_RATE_TOLERANCE = 1e-10


class _Minibatches(pl.LightningDataModule):
    """An epoch of the user's length in which the minibatches at hand come over and over."""

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


def check_updates(
    module: MLPModule, batches: Sequence[Batch], dtype: torch.dtype, *, steps_per_epoch: int, total_steps: float
) -> Table:
    """Train a copy for 20 steps, in Lightning's own loop, with torch beside every step.

    Args:
        module: with its network; it stays as it is.
        batches: at least one, on the CPU.
        dtype: float64 or float32.
        steps_per_epoch: of the whole training, at least 1.
        total_steps: of the whole training, at least 1; infinite when it has no end.
    """
    options = module.step_options
    steps = int(min(STEPS, total_steps))
    rates = check_oracle_rules.learning_rates(
        options, int(min(MOST_LEARNING_RATES, total_steps)), steps_per_epoch, total_steps
    )
    beside = Beside(module.network, options, steps)
    average = [AverageBeside(options, total_steps)] if options["averaging"] != "none" else []
    with _silent_lightning():
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            precision="64-true" if dtype == torch.float64 else "32-true",
            max_epochs=-1,
            max_steps=-1 if math.isinf(total_steps) else int(total_steps),
            limit_val_batches=0,
            log_every_n_steps=steps + 1,
            callbacks=[beside, *average],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(_copy(module), _Minibatches(batches, steps_per_epoch))
    schedule = make_schedule(
        options["schedule"],
        module.schedule_options,
        warmup_epochs=options["warmup_epochs"],
        steps_per_epoch=steps_per_epoch,
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
    caption = (
        f"{len(beside.rates)} steps of {options['optimizer']}, schedule {options['schedule']}, in {dtype_name(dtype)}, "
        f"minibatches of {len(batches[0].y)} samples: every step beside torch's from the same weights.\n"
        f"Gradients, clipped if so configured, against torch.autograd's; movements of the weights against {oracle} "
        "for the same gradient and learning rate.\n"
        f"Tolerated: for gradients as above; for movements four roundings of each weight and ({operations}) eps of the "
        f"largest movement{weak}, P = {module.network.flat.numel():,}."
        f"{beside.remark}"
    )
    return Table(f"updates, {dtype_name(dtype)}", caption, rows)


def _compare_rates(name: str, ours: list[float], expected: Tensor) -> Row:
    allowed = LEARNING_RATE_TOLERANCE * float(expected.max())
    return compare(f"{name}, steps 1–{len(ours)}", torch.tensor(ours, dtype=torch.float64), expected, allowed)


def _copy(module: MLPModule) -> MLPModule:
    """Another module of the same options and weights, which no trainer holds yet."""
    # LightningCLI adds an entry of its own, with an underscore.
    copy = MLPModule(**{name: value for name, value in module.hparams.items() if not name.startswith("_")})
    copy.weigh(module.class_weights)
    copy.train_from(deepcopy(module.network).cpu())
    # No step ends the comparison: what is not finite fails it.
    copy.let_steps_pass()
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
