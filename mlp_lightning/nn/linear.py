"""The linear layer Z = X Wᵀ + b and its backward pass.

Weights are stored ``(H, D)``, one row a unit, which is ``torch.nn.Linear``'s orientation.
"""

import torch
from torch import Tensor


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """Z = X Wᵀ + b.

    Args:
        x: X ``(B, D)``, which the backward pass needs again.
        weight: W ``(H, D)``.
        bias: b ``(H,)``, added to every row.
        out: where to write Z; None for new memory.

    Returns:
        Z ``(B, H)``.
    """
    return torch.addmm(bias, x, weight.t(), out=out)


def linear_backward(dz: Tensor, x: Tensor, dweight: Tensor, dbias: Tensor, *, add: bool = False) -> None:
    """dW = dZᵀ X and db = Σ_i dZ_i, written into ``dweight`` ``(H, D)`` and ``dbias`` ``(H,)``, or added to them.

    The sums run over the B samples. A mean loss has its 1/B in dZ already, so none appears here. ``dbias`` may have a
    finer dtype than the others, in which it is then summed.
    """
    if add:
        dweight.addmm_(dz.t(), x)
        dbias.add_(torch.sum(dz, 0, dtype=dbias.dtype))
    else:
        torch.mm(dz.t(), x, out=dweight)
        torch.sum(dz, 0, dtype=dbias.dtype, out=dbias)


def linear_backward_input(dz: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """dX = dZ W, ``(B, D)``, into ``out`` or new memory.

    It stands apart from dW and db, since it costs as much and the first layer seldom needs it.
    """
    return torch.mm(dz, weight, out=out)
