"""The engine ``torch``: the formulas in place, in memory that is kept between steps, on any device."""

import torch

from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.passes import MANY_ROWS, Passes
from mlp_lightning.engines.recipe import StepRecipe
from mlp_lightning.engines.torch.passes import TorchPasses
from mlp_lightning.nn.mlp import MLP


class TorchEngine(Engine):
    """Makes every step there is, one at a time."""

    name = "torch"
    updates_in_products = True

    @classmethod
    def refuses(cls, recipe: StepRecipe) -> str | None:
        """None: it makes all of them."""
        return None

    def make_passes(self, network: MLP, products: torch.dtype | None, min_rows_sparse: int = MANY_ROWS) -> Passes:
        """Passes in memory of their own, which skip no zero."""
        return TorchPasses(network, products)
