"""A training without Lightning: the steps of a recipe, by the engine and in the groups of ``fit``, with its bits."""

import functools
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mlp_lightning.data.batches import GROUPED_ROWS, Batch, Batches
from mlp_lightning.engines.choice import AUTO, choose
from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.passes import FEW_ROWS, Evaluator
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.nn import MLP
from mlp_lightning.optim.averaging import Averaging, average_network_
from mlp_lightning.optim.schedules import Schedule

# Samples that are evaluated at once.
EVALUATED_ROWS = 1024


class Loop:
    """Trains a network, an epoch at a time.

    ``step`` and ``epoch`` count what was made; a loop that continues a training starts with its numbers.

    Args:
        recipe: what a step consists of.
        lr: the learning rate, which the schedule multiplies.
        schedule: its multiplier.
        averaging: the share of the newest weights in their average; None for no average.
        wanted: a key of ``ENGINES``, or ``auto``.

    Raises:
        UserError: the engine that is wanted refuses.
    """

    def __init__(
        self,
        recipe: StepRecipe,
        lr: float,
        schedule: Schedule,
        averaging: tuple[Averaging, MLP] | None = None,
        wanted: str = AUTO,
    ) -> None:
        self.engine: Engine = choose(recipe, wanted).engine
        self.recipe, self.lr, self.schedule, self.averaging = recipe, lr, schedule, averaging
        self.step = self.epoch = 0

    def run_epoch(self, batches: Batches) -> float:
        """Train on every minibatch once; returns the mean loss, of each before its step.

        Raises:
            NotFinite: a step was not finite.
        """
        batches.set_epoch(self.epoch)
        if self.step == 0:
            self.engine.prepare(batches.train_sizes)
        self.engine.finiteness.begin(self.step)
        loss_sum: float | Tensor = 0.0
        normalizer: float | Tensor = 0.0
        with torch.inference_mode():
            for group in _groups(batches):
                for amount, weight in self._train(group):
                    loss_sum, normalizer = loss_sum + amount, normalizer + weight
            self.engine.finiteness.look(self.step, self.lr)
        self.epoch += 1
        # Nothing was added where every step was skipped.
        return float(loss_sum / normalizer) if normalizer else math.nan

    def _train(self, group: list[Batch]) -> Iterator[tuple[float | Tensor, float | Tensor]]:
        """The summed losses and their normalizers of the steps on some minibatches."""
        made, first = 0, self.step
        rates = [self.lr * self.schedule(first + k) for k in range(len(group))]
        if self.averaging is None and self.engine.one_by_one is None:
            for steps in self.engine.steps(group, rates, first):
                made += steps.n_steps
                yield steps.loss_sum, steps.normalizer
        for k in range(made, len(group)):
            loss_sum, normalizer = self.engine(group[k], rates[k], step=first + k, keep_gradient=False)
            if not self.engine.finiteness.skipped:
                self._average(first + k)
                yield loss_sum, normalizer
        self.step = first + len(group)

    def _average(self, step: int) -> None:
        if self.averaging is None:
            return
        averaging, average = self.averaging
        average_network_(average, self.network, averaging(step))

    @property
    def network(self) -> MLP:
        """The network that is trained."""
        return self.recipe.network

    @property
    def evaluated_network(self) -> MLP:
        """The network with the averaged weights, where they are averaged."""
        return self.network if self.averaging is None else self.averaging[1]

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        return self.engine.evaluator(self.evaluated_network, FEW_ROWS)

    def evaluate(self, x: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """The outputs ``(N, K)`` of samples, and their mean loss, by the weights as they are."""
        outputs, loss_sum, normalizer = [], 0.0, 0.0
        with torch.inference_mode():
            for rows, wanted in zip(x.split(EVALUATED_ROWS), targets.split(EVALUATED_ROWS), strict=True):
                found, loss = self._evaluator(rows, wanted)
                outputs.append(found.clone())
                loss_sum += float(loss)
                normalizer += float(self.recipe.loss.normalizer(found, wanted))
        return torch.cat(outputs), loss_sum / normalizer


def _groups(batches: Batches) -> Iterator[list[Batch]]:
    """The minibatches of an epoch, several of one size at a time."""
    most = max(1, GROUPED_ROWS // batches.batch_size)
    for _, alike in itertools.groupby(batches, key=lambda batch: batch.size):
        while group := list(itertools.islice(alike, most)):
            yield group
