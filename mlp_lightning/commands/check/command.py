"""``check``: proves the hand-derived gradients and updates on the user's own configuration and minibatches."""

import copy
from collections.abc import Sequence

import torch

from mlp_lightning.commands.check.differences import check_differences
from mlp_lightning.commands.check.gradients import check_gradients
from mlp_lightning.commands.check.oracle_mixup import mixed_targets
from mlp_lightning.commands.check.updates import PRECISIONS, STEPS, Training, check_updates
from mlp_lightning.commands.check.verdict import closing_line, render
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.choice import AUTO, ENGINES, RefusedError
from mlp_lightning.nn import MLP
from mlp_lightning.training.module import MLPModule

ALL = "all"
GRADIENT_SAMPLES = 64
STEP_SAMPLES = 256


def check(
    module: MLPModule,
    batches: Sequence[Batch],
    *,
    precision: str,
    steps_per_epoch: int,
    total_steps: float,
    engine: str = AUTO,
) -> bool:
    """Compare gradients, updates and learning rates with torch's, print a table a part, and tell whether all agree.

    Everything happens on the CPU, on copies: in float64, where a right formula agrees to some twelve digits and a wrong
    one nowhere, then in float32, and in the precision of the training, by the engine of the training and in groups of
    steps as fit makes them.

    Args:
        module: with its network, whose weights are those to check at.
        batches: the first minibatches of the training, at least one; more than 20 are not looked at, nor more than the
            first 256 samples of each.
        precision: the trainer's. Half precisions, too coarse to prove a formula, are checked in float32 first.
        steps_per_epoch: of the training that is configured.
        total_steps: of that training; infinite when it has no end.
        engine: what makes the steps in the training's precision: ``auto`` for the one that fit would choose here, a key
            of ``ENGINES``, or ``all`` for each one that does not refuse.

    Raises:
        UserError: the engine refuses.
    """
    batches = [_first_samples(batch, STEP_SAMPLES) for batch in batches[:STEPS]]
    x = batches[0].x[:GRADIENT_SAMPLES]
    y = mixed_targets(batches[0], module.network.sizes[-1])[:GRADIENT_SAMPLES]
    training = Training(module, batches, steps_per_epoch, total_steps)
    fine = {"64-true": torch.float64, "32-true": torch.float32}
    own = precision if precision in PRECISIONS else "32-true"
    tables, lines = [], []
    for each in (name for name in PRECISIONS if own == name or (name in fine and own != "64-true")):
        if each in fine:
            network = _copy(module.network, fine[each])
            tables.append(check_gradients(network, x, y, module.step_options))
        if each == "64-true":
            tables.append(check_differences(network, x, y, module.step_options))
        if each != own or engine != ALL:
            tables += check_updates(training, each, engine if each == own else AUTO)
            continue
        for name in ENGINES:
            try:
                tables += check_updates(training, each, name)
            except RefusedError as refused:
                lines.append(f"engine {name} refuses: {refused.reason}")
    for table in tables:
        print(render(table))
    print(*lines, closing_line(tables), sep="\n")
    return all(row.passed for table in tables for row in table.rows)


def _copy(network: MLP, dtype: torch.dtype) -> MLP:
    return copy.deepcopy(network).to("cpu", dtype)


def _first_samples(batch: Batch, count: int) -> Batch:
    """The first training samples of a minibatch, on the CPU, and none that validates."""
    x, y = batch.x[:count].cpu(), batch.y[:count].cpu()
    partner_y = None if batch.partner_y is None else batch.partner_y[:count].cpu()
    return Batch(x, y, x[:0], y[:0], len(y), partner_y=partner_y, share=batch.share)
