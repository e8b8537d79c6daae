"""The max-norm constraint: no unit's incoming weights are longer than a given length."""

import torch
from torch import Tensor

from mlp_lightning.nn.lengths import norm_and_scale
from mlp_lightning.optim.ranges import require_positive

TINY = 1e-12


def max_norm_(weight: Tensor, limit: float) -> None:
    """w_i ← w_i · min(1, c / ‖w_i‖₂) for every row w_i of W (Srebro & Shraibman 2005; Srivastava et al. 2014, § 5.1).

    This is the projection onto ‖w_i‖ ≤ c, the nearest point that keeps the bound. After a gradient step it makes
    projected gradient descent, in which the learning rate may be large without the weights growing.

    Args:
        weight: W ``(H, D)``; row i holds the weights that lead into unit i.
        limit: c > 0.

    Raises:
        ValueError: ``limit`` outside its range.
    """
    require_positive("limit", limit)
    # Rows that are longer than a limit above 1e-12 have squares that do not vanish.
    norms, scales = norm_and_scale(weight, 1, tiny=limit < TINY)
    # A row of zeros has the quotient ∞, and stays.
    if scales is None:
        weight.mul_((limit / norms).clamp_(max=1.0))
    else:
        weight.div_(scales).mul_(torch.minimum(limit / norms, scales))
