"""Virtual adversarial training: the outputs shall not change where a small step in the input would change them most."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mlp_lightning.engines.passes import LayerDelta, Passes
from mlp_lightning.engines.torch.passes import TorchPasses
from mlp_lightning.nn.dropout import dropout_backward
from mlp_lightning.nn.lengths import norm_and_scale
from mlp_lightning.nn.linear import linear_backward_input
from mlp_lightning.nn.mlp import MLP
from mlp_lightning.nn.training_pass import TrainingPass

# By the dtype of the matrix products, which sets the rounding.
DEFAULT_XI = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.3}


def kl_forward(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ_i KL(p_i ‖ q_i) = Σ_i Σ_c p_ic (log p_ic − log q_ic), 0-dim, of log-probabilities ``(B, K)``."""
    return (log_p - log_q).mul_(log_p.exp()).sum()


def kl_backward(log_p: Tensor, log_q: Tensor) -> Tensor:
    """dlogits = q − p ``(B, K)``, of the sum over samples, where q = softmax(logits) and p is a constant.

    Each row sums to 0. Where a probability is nearly 1, its difference is lost in rounding, but those of the others are
    not: the likeliest class gets minus their sum.
    """
    dlogits = log_q.exp().sub_(log_p.exp())
    return dlogits.scatter_add_(1, log_p.argmax(1, keepdim=True), dlogits.sum(1, keepdim=True).neg_())


class VirtualAdversary:
    """The term λ Σ_i KL(p(·|x_i) ‖ p(·|x_i + r_i)) of a loss, with p(·|x_i) and r_i constants.

    r_i is the step of length ε that changes the outputs most (Miyato et al. 2016, arXiv 1507.00677; 2018, arXiv
    1704.03976). D(r) = KL(p(·|x) ‖ p(·|x + r)) is least at r = 0, so its gradient there is 0 and its change is of
    second order, D(r) ≈ ½ rᵀ H r: the step wanted is the leading eigenvector of H. Power iteration finds it, d ←
    H d / ‖H d‖ from a random d, and H d is a difference of gradients one of which is 0 (2018, section 3.3):

        H d ≈ (∇D(ξ d) − ∇D(0)) / ξ = ∇D(ξ d) / ξ        ∇D(ξ d) = J(x + ξ d)ᵀ (q − p)

    with q = softmax(logits) at x + ξ d and J its logits' Jacobian: one forward pass, and one backward pass as far as
    the input. An iteration needs the direction alone, so each row of q − p is brought to the size 1 instead, which no
    product rounds to 0.

    The term's gradient is that of an ordinary minibatch x + r whose dlogits are λ (softmax(logits) − p).

    ξ is too large where D is no longer its second-order part, an error of order ξ, and too small where q − p is
    rounding, an error of order eps / ξ; by default it is ``DEFAULT_XI``.

    All passes of a step share the masks of dropout: D compares two inputs of one network. With batch norm each pass has
    the statistics of its own minibatch, and the running ones follow that of x alone, as in the authors' code; D is then
    the sum over the minibatch, whose samples move each other's outputs.

    Where ∇D vanishes altogether, as where the network is constant, r is 0.

    After ``forward`` ``r`` and ``x_r`` ``(B, D)`` hold r and x + r until the next call, and ``divergence`` what it
    returned.

    Args:
        network: whose parameter the passes read; it must stay on its device.
        weight: λ ≥ 0.
        eps: ε > 0, the Euclidean length of r_i, in the units of the inputs.
        xi: ξ > 0, the length of the steps that ask for a gradient; None for the default.
        iterations: of the power method, at least 1.
        dtype: of the matrix products; None for the parameter's.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        network: MLP,
        *,
        weight: float,
        eps: float,
        xi: float | None = None,
        iterations: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight must be zero or more and finite, got {weight}")
        for name, value in (("eps", eps), ("xi", xi)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be above zero and finite, got {value}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.weight = weight
        self.eps = eps
        self.xi = xi if xi is not None else DEFAULT_XI[dtype if dtype is not None else network.flat.dtype]
        self.iterations = iterations
        # An engine puts its own in their place.
        self.passes: Passes = TorchPasses(network, dtype)
        self._memory: dict[str, Tensor] = {}

    def forward(self, x: Tensor, logits: Tensor, d: Tensor, training: TrainingPass | None = None) -> Tensor:
        """Σ_i KL(p(·|x_i) ‖ p(·|x_i + r_i)), 0-dim.

        Args:
            x: the minibatch ``(B, D)``.
            logits: the network's for x, ``(B, K)``.
            d: where the power iteration begins, ``(B, D)``, of any length but 0; it may be overwritten.
            training: that of the pass that gave the logits, as ``Passes.forward`` takes it.
        """
        self._log_p = log_probabilities(logits)
        self.r = self._perturbation(x, d, training)
        self.x_r = torch.add(x, self.r, out=self._kept("x + r", x.shape, x.dtype))
        self._log_q = log_probabilities(self.passes.forward(self.x_r, training))
        self.divergence = kl_forward(self._log_p, self._log_q)
        return self.divergence

    def _perturbation(self, x: Tensor, d: Tensor, training: TrainingPass | None) -> Tensor:
        """r ``(B, D)``, by power iteration from d."""
        passes = self.passes
        input_mask = training.masks[0] if training is not None and training.masks else None
        d = d.to(torch.promote_types(d.dtype, x.dtype))
        for _ in range(self.iterations):
            x_d = torch.add(x, _scale_rows_(d, self.xi), out=self._kept("x + r", x.shape, x.dtype))
            dlogits = kl_backward(self._log_p, log_probabilities(passes.forward(x_d, training)))
            if passes.network.norm == "batch":
                # One factor for all: a row's gradient has shares of the others'.
                dlogits /= self.xi
            else:
                dlogits /= dlogits.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(dlogits.dtype).tiny)
            *_, (_, dz, _) = passes.backward(dlogits)
            weight = passes.layers[0].weight
            dx = linear_backward_input(dz, weight, self._kept("dx", x.shape, weight.dtype))
            d.copy_(dropout_backward(dx, input_mask))
        return _scale_rows_(d, self.eps)

    def backward(self, passes: Passes, dlogits: Tensor, scale: float | Tensor = 1.0) -> Iterator[LayerDelta]:
        """Join the backward pass at x + r to that at x, layer by layer: (k, dZ_k ``(2B, H)``, A_{k−1} ``(2B, D)``).

        dW = dZᵀ A and db = Σ dZ of the joined rows are the gradients of both terms together, so whoever takes what
        ``Passes.backward`` hands out takes this. The gradients of the norms are added to those at x.

        Args:
            passes: those of the pass at x.
            dlogits: dLoss/dlogits ``(B, K)`` there.
            scale: what the loss multiplies λ Σ KL by: 1/B for a mean.
        """
        moved = self.passes.backward(kl_backward(self._log_p, self._log_q).mul_(self.weight * scale))
        for (k, dz, a), (_, dz_r, a_r) in zip(passes.backward(dlogits), moved, strict=True):
            if k in passes.norm_gradients:
                for total, share in zip(passes.norm_gradients[k], self.passes.norm_gradients[k], strict=True):
                    total += share
            yield LayerDelta(k, self._joined(f"dZ {k}", dz, dz_r), self._joined(f"A {k}", a, a_r))

    def _joined(self, name: str, one: Tensor, other: Tensor) -> Tensor:
        both = self._kept(name, (len(one) + len(other), one.shape[1]), one.dtype)
        both[: len(one)] = one
        both[len(one) :] = other
        return both

    def _kept(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory ``(rows, width)`` under a name: the first rows of what grows with the largest batch."""
        rows, width = shape
        memory = self._memory.get(name)
        if memory is None or len(memory) < rows:
            # Outside of inference mode, whose tensors could not be written in training.
            with torch.inference_mode(False):
                memory = torch.empty(rows, width, dtype=dtype, device=self.passes.network.flat.device)
            self._memory[name] = memory
        return memory[:rows]


def log_probabilities(logits: Tensor) -> Tensor:
    """log softmax(logits), in float32 at least: differences of two of them are what counts."""
    return torch.log_softmax(logits, 1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _scale_rows_(d: Tensor, length: float) -> Tensor:
    """Give every row a Euclidean length, in place; rows of zeros stay."""
    norms, scales = norm_and_scale(d, 1, tiny=True)
    if scales is not None:
        d.div_(scales)
    # The root of the smallest number: length over it is still finite.
    return d.mul_(length / norms.clamp_min_(torch.finfo(d.dtype).tiny ** 0.5))
