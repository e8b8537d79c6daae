"""The engine ``native``: the formulas in C on a processor, and plain steps of a ReLU network several in one call."""

from collections.abc import Iterator, Sequence

import torch

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.engine import Steps
from mlp_lightning.engines.native.adam import adam_step
from mlp_lightning.engines.native.library import is_native, library
from mlp_lightning.engines.native.loss import NativeCrossEntropy, in_place
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.engines.native.steps import NativeSteps
from mlp_lightning.engines.passes import MANY_ROWS, Evaluator, StepLoss
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.engines.torch.engine import TorchEngine
from mlp_lightning.nn.mlp import MLP


class NativeEngine(TorchEngine):
    """Makes every step that ``torch`` makes on a processor in float32, with C where there is C for it.

    Args:
        recipe: what a step consists of.
    """

    name = "native"
    passes: NativePasses

    def __init__(self, recipe: StepRecipe) -> None:
        super().__init__(recipe)
        recipe.rule.one_pass = adam_step()
        self._several: NativeSteps | None = None
        self._one_by_one = recipe.is_not_plain or self._refuses_several()
        if self._one_by_one is None:
            assert isinstance(self.loss, NativeCrossEntropy)
            form = recipe.rule.fused()
            assert form is not None
            self._several = NativeSteps(self.passes, self.loss, form, recipe.reduction)

    @classmethod
    def refuses(cls, recipe: StepRecipe) -> str | None:
        """Why it cannot make these steps, in words; None if it can."""
        flat = recipe.network.flat
        if not flat.is_cpu:
            return f"the weights are on {flat.device}"
        if not is_native(flat.detach()):
            return f"the weights are {str(flat.dtype).removeprefix('torch.')}, not float32"
        return "no C functions, which need a C compiler" if library() is None else None

    def make_passes(self, network: MLP, products: torch.dtype | None, min_rows_sparse: int = MANY_ROWS) -> NativePasses:
        """Passes in C as far as it has them."""
        return NativePasses(network, products, min_rows_sparse)

    def make_loss(self) -> StepLoss:
        """The loss in C where it has it."""
        return in_place(self.recipe.loss)

    def _refuses_several(self) -> str | None:
        recipe, form = self.recipe, self.recipe.rule.fused()
        if self.passes.why_by_layer is not None:
            return self.passes.why_by_layer
        if not isinstance(self.loss, NativeCrossEntropy):
            return "the loss is computed in torch"
        if form is None or form.kind == "momentum" or (form.kind == "adam" and form.decays):
            return f"{type(recipe.rule).__name__} with these options is a pass of its own"
        return "C ends at a step that is not finite" if recipe.nonfinite == "ignore" else None

    @property
    def one_by_one(self) -> str | None:
        """Why every step is a call of its own, in words; None where several are one call."""
        return self._one_by_one

    @property
    def evaluates_steps(self) -> bool:
        """Whether ``steps`` may also evaluate after each of them."""
        return self._several is not None

    def steps(
        self, batches: Sequence[Batch], rates: Sequence[float], first: int, evaluator: Evaluator | None = None
    ) -> Iterator[Steps]:
        """Make steps in one call, as ``Engine.steps``."""
        if self._several is None:
            return
        losses, evaluated, biases = self._several.run(batches, rates, evaluator)
        size = batches[0].size
        self.samples_seen += size * len(losses)
        for k, loss in enumerate(losses):
            yield Steps(1, loss, float(size), evaluated[k] if k < len(evaluated) else None)
        if biases is not None:
            last = len(losses) - 1
            self.finiteness.check_update(first + last, losses[last], rates[last], biases)
