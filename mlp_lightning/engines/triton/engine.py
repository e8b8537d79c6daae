"""The engine ``triton``: plain steps on a GPU in kernels of our own, recorded as CUDA graphs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.engine import Steps
from mlp_lightning.engines.passes import Evaluator
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.engines.torch.engine import TorchEngine

if TYPE_CHECKING:
    from mlp_lightning.engines.triton.steps import TritonSteps

# Beyond, the operands of the logits of a few samples no longer fit into shared memory.
MOST_CLASSES = 128


class TritonEngine(TorchEngine):
    """Makes plain steps in a few kernels each, several in one launch; minibatches that these do not take as ``torch``.

    Args:
        recipe: what a step consists of.
    """

    name = "triton"

    def __init__(self, recipe: StepRecipe) -> None:
        super().__init__(recipe)
        self._steps = self.make_steps()

    @classmethod
    def refuses(cls, recipe: StepRecipe) -> str | None:
        """Why it cannot make these steps, in words; None if it can."""
        network, form = recipe.network, recipe.rule.fused()
        if not network.flat.is_cuda:
            return "no CUDA device" if not torch.cuda.is_available() else f"the weights are on {network.flat.device}"
        if recipe.is_not_plain is not None:
            return recipe.is_not_plain
        if network.flat.dtype != torch.float32 or recipe.products not in (None, torch.bfloat16):
            return "its products are of float32 or bfloat16"
        if network.activation not in ("relu", "sigmoid", "tanh"):
            return f"it has no activation {network.activation}"
        if recipe.loss.fused is None:
            return "it has cross_entropy without class weights alone"
        if form is None:
            return f"{type(recipe.rule).__name__} with these options is a pass of its own"
        if network.sizes[-1] > MOST_CLASSES:
            return f"it has at most {MOST_CLASSES} classes"
        return cls.why_no_kernels(network.flat.device)

    @staticmethod
    def why_no_kernels(device: torch.device) -> str | None:
        """Why the kernels cannot be compiled for a GPU, in words; None if they can."""
        try:
            # Triton is needed here alone, and takes its time to be imported.
            from mlp_lightning.engines.triton.steps import has_kernels
        except ImportError:
            return "Triton is not installed"
        return None if has_kernels(device) else "its kernels cannot be compiled for this GPU"

    def make_steps(self) -> "TritonSteps":
        """What launches the kernels."""
        from mlp_lightning.engines.triton.steps import TritonSteps

        recipe, form, loss = self.recipe, self.recipe.rule.fused(), self.recipe.loss.fused
        assert form is not None
        assert loss is not None
        return TritonSteps(recipe.network, loss, form, recipe.reduction, recipe.products)

    @property
    def one_by_one(self) -> str | None:
        """None: several steps are one launch."""
        return None

    def prepare(self, sizes: Iterable[int]) -> None:
        """Record steps on minibatches of so many samples."""
        self._steps.prepare(sizes)

    def __call__(
        self, batch: Batch, lr: float, *, step: int = 0, updates: bool = True, keep_gradient: bool = True
    ) -> tuple[float | Tensor, float | Tensor]:
        """Make one step, as ``Engine``."""
        if not self._steps.fits(batch):
            return super().__call__(batch, lr, step=step, updates=updates, keep_gradient=keep_gradient)
        steps = self._run([batch], [lr], step, keep_gradient=keep_gradient)
        return steps.loss_sum, steps.normalizer

    def steps(
        self, batches: Sequence[Batch], rates: Sequence[float], first: int, evaluator: Evaluator | None = None
    ) -> Iterator[Steps]:
        """Make steps in a few launches, as ``Engine.steps``; none where something is to be evaluated after each."""
        fit = all(self._steps.fits(batch) and batch.size == batches[0].size for batch in batches)
        if fit and evaluator is None:
            yield self._run(batches, rates, first, keep_gradient=False)

    def _run(self, batches: Sequence[Batch], rates: Sequence[float], first: int, *, keep_gradient: bool) -> Steps:
        losses, totals = self._steps.run(batches, rates, keeps=keep_gradient)
        size = sum(batch.size for batch in batches)
        self._last = losses[-1], float(batches[-1].size)
        self.samples_seen += size
        self.finiteness.note(first, totals, rates[-1])
        # Of numbers of 32 bits a sum in 64 bits is exact, unless they differ by a factor of a million and more: it does
        # not depend on which steps were made together.
        return Steps(len(batches), losses.sum(dtype=torch.float64), float(size))
