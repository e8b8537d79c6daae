"""Muon: momentum whose singular values are all brought near 1, for weight matrices."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mlp_lightning.nn.lengths import norm_and_scale
from mlp_lightning.optim.moments import AdaptiveMoments
from mlp_lightning.optim.ranges import require_bool, require_decay_rate, require_int
from mlp_lightning.optim.update_rule import zero_at_first

# Jordan's a, b and c: steep at 0, so that small singular values grow fast, at the price of never settling on 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# A gradient shorter than this counts as zero; torch has the same.
NORM_EPS = 1e-7
# The root mean square of Adam's typical step, in units of the learning rate (Liu et al. 2025, section 2.2).
ADAM_RMS = 0.2
MOST_STEPS = 99


class Muon(AdaptiveMoments):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for weight matrices, AdamW for what follows them.

    For each weight matrix W ``(H, D)`` with gradient G:

        B ← μ B + (1 − μ) G
        U = (1 − μ) G + μ B                      Nesterov; otherwise U = B
        O = p(p(…p(U / ‖U‖_F)))                  p(X) = a X + b (X Xᵀ) X + c (X Xᵀ)² X, the Newton–Schulz iteration
        W ← (1 − η λ) W − 0.2 √max(H, D) η O

    With U = P Σ Qᵀ an SVD, p acts on the singular values alone, σ → a σ + b σ³ + c σ⁵, and in five steps lifts all of
    them that are not tiny to between 0.68 and 1.2: O is nearly P Qᵀ, the matrix of singular values 1 that is nearest
    to U. Directions in which the gradient is weak move as far as those in which it is strong.

    P Qᵀ has entries of root mean square 1 / √max(H, D). The factor 0.2 √max(H, D), "match_rms_adamw" in torch (Liu et
    al. 2025, eq. 4), gives W steps as long as AdamW's: one η serves matrices and biases, and a value tuned for AdamW
    can be kept. Biases, and whatever else follows the weights in the flat tensor, have no singular values: they take
    AdamW's step with η, β1, β2 and ε. As in torch, B averages gradients; Jordan's first version sums them, which
    differs by a factor that O does not see.

    The iteration runs in ``dtype_of_products``, None for the parameter's dtype; torch always takes bfloat16. It is
    no option of the mathematics: whoever computes the network's products in fewer bits sets it.

    Args:
        params: exactly one tensor ``(P,)``, the weights first.
        lr: η ≥ 0.
        weight_shapes: (H, D) of every weight matrix, in the tensor's order.
        momentum: μ in [0, 1).
        nesterov: whether to look ahead.
        ns_steps: how often p is applied, from 1 to 99.
        weight_decay: λ ≥ 0, decoupled.
        beta1: β1 in [0, 1), for the rest of the tensor, as are:
        beta2: β2 in [0, 1).
        eps: ε ≥ 0.
        decay_biases: whether λ acts on the rest too.

    Raises:
        ValueError: an argument outside its range, more than one tensor, or one that does not hold the matrices.
    """

    state_names = ("step", "momentum_buffer", "first_moment", "second_moment")
    decouples_decay = True

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        weight_shapes: Sequence[tuple[int, int]],
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        decay_biases: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_shapes": list(weight_shapes),
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "weight_decay": weight_decay,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "decay_biases": decay_biases,
            "weight_numel": sum(math.prod(shape) for shape in weight_shapes),
        }
        super().__init__(params, defaults)

    @staticmethod
    def check(options: Mapping[str, Any]) -> None:
        """Raise ValueError for an option outside its range."""
        AdaptiveMoments.check(_of_rest(options))
        require_decay_rate("momentum", options["momentum"])
        require_bool("nesterov", options["nesterov"])
        require_int("ns_steps", options["ns_steps"], 1, MOST_STEPS)
        shapes = options["weight_shapes"]
        if not shapes or any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
            raise ValueError(f"weight_shapes must be one or more pairs of positive widths, got {shapes}")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one group with the one tensor.

        Raises:
            ValueError: an option outside its range, a second tensor, or one that does not hold the matrices.
        """
        if self.param_groups:
            raise ValueError("params must be exactly one tensor, got a second group")
        super().add_param_group(param_group)
        params, numel = self.param_groups[0]["params"], self.param_groups[0]["weight_numel"]
        if len(params) != 1 or params[0].ndim != 1 or params[0].numel() < numel:
            shapes = [tuple(parameter.shape) for parameter in params]
            raise ValueError(f"params must be exactly one flat tensor (P,) with P >= {numel}, got {shapes}")

    def state_shape(self, name: str, parameter: Tensor, group: Mapping[str, Any]) -> tuple[int, ...]:
        """B is of the matrices, m and v are of the rest."""
        numel: int = group["weight_numel"]
        return (numel if name == "momentum_buffer" else parameter.numel() - numel,)

    def __getstate__(self) -> dict[str, Any]:
        # torch's keeps the options and the state of the mathematics.
        return {**super().__getstate__(), "dtype_of_products": self.dtype_of_products}

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """One step on the flat tensor, in place."""
        numel = group["weight_numel"]
        self.shrink(parameter, group)
        b = zero_at_first(state, "momentum_buffer", parameter[:numel])
        b.lerp_(grad[:numel], 1 - group["momentum"])
        u = self.looking_ahead(b, grad, group)
        for weight, matrix in zip(matrices(parameter, group), matrices(u, group), strict=True):
            rate = group["lr"] * ADAM_RMS * math.sqrt(max(weight.shape))
            weight.add_(self.orthogonalized(matrix, group["ns_steps"]), alpha=-rate)
        if parameter.numel() > numel:
            self.adam_step(parameter[numel:], grad[numel:], state, _of_rest(group))

    def looking_ahead(self, b: Tensor, grad: Tensor, group: Mapping[str, Any]) -> Tensor:
        """U of all matrices, from B and the gradient."""
        if not group["nesterov"]:
            return b
        return torch.lerp(grad[: b.numel()], b, group["momentum"], out=self.scratch("looking_ahead", b))

    def orthogonalized(self, matrix: Tensor, steps: int) -> Tensor:
        """O ``(H, D)`` of U ``(H, D)``, in memory that the next call overwrites."""
        is_tall = matrix.shape[0] > matrix.shape[1]
        # X Xᵀ is the smaller of the two products where X is wide.
        wide = matrix.t() if is_tall else matrix
        rows, columns = wide.shape
        dtype = self.dtype_of_products
        x, other = (self.scratch(name, matrix, (rows, columns), dtype) for name in ("x", "other"))
        gram, polynomial = (self.scratch(name, matrix, (rows, rows), dtype) for name in ("gram", "polynomial"))
        x.copy_(wide)
        x = newton_schulz(x, steps, COEFFICIENTS, (other, gram, polynomial))
        return x.t() if is_tall else x


def _of_rest(group: Mapping[str, Any]) -> dict[str, Any]:
    # The group itself has no betas: torch's schedulers would cycle them in place of the momentum.
    return {**group, "betas": (group["beta1"], group["beta2"])}


def newton_schulz(
    x: Tensor, steps: int, coefficients: tuple[float, float, float], memory: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """p applied ``steps`` times to X / ‖X‖_F, whose singular values are at most 1.

    Each application is X ← a X + (b A + c A²) X with A = X Xᵀ.

    Args:
        x: X ``(R, C)``, which is overwritten.
        steps: how often.
        coefficients: a, b and c.
        memory: of shapes ``(R, C)``, ``(R, R)`` and ``(R, R)``, overwritten; the result is in the first or in ``x``.
    """
    a, b, c = coefficients
    other, gram, polynomial = memory
    norm, scale = norm_and_scale(x)
    if scale is not None:
        x.div_(scale)
    x.div_(norm.clamp_(min=NORM_EPS))
    for _ in range(steps):
        torch.mm(x, x.t(), out=gram)
        torch.addmm(gram, gram, gram, beta=b, alpha=c, out=polynomial)
        torch.addmm(x, polynomial, x, beta=a, out=other)
        x, other = other, x
    return x


def matrices(flat: Tensor, group: Mapping[str, Any]) -> Iterator[Tensor]:
    """Views ``(H, D)`` of every weight matrix in a tensor that begins with them."""
    start = 0
    for shape in group["weight_shapes"]:
        stop = start + math.prod(shape)
        yield flat[start:stop].view(shape)
        start = stop
