"""What one forward and backward pass tells about the health of a network: units, deltas, single samples, noise.

All functions read tensors that the passes have made anyway, ``(B, H)`` and their like, and return 0-dim tensors on the
same device unless they say otherwise; nothing waits for the device. Half precision is widened to float32 first.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mlp_lightning.nn.activations import ACTIVATIONS
from mlp_lightning.nn.mlp import Cache

SATURATION_MARGIN = 0.01


def norm(tensor: Tensor) -> Tensor:
    """‖t‖₂ over all entries."""
    return torch.linalg.vector_norm(_widened(tensor))


def mean_abs(tensor: Tensor) -> Tensor:
    """Σ |t| / n over the n entries."""
    return torch.linalg.vector_norm(_widened(tensor), 1) / tensor.numel()


def rms(tensor: Tensor) -> Tensor:
    """√(Σ t² / n) over the n entries."""
    return norm(tensor) / math.sqrt(tensor.numel())


def dead_share(activation: str, z: Tensor, a: Tensor) -> Tensor:
    """Share of a layer's units whose derivative f′(z) is 0 for every sample of the minibatch.

    Such a unit learned nothing from these samples, nor did anything below learn through it. The derivative is the
    one that ``backward`` uses: exactly 0 left of relu's kink, and where sigmoid or tanh round to their bounds.

    Args:
        activation: f, a key of ``ACTIVATIONS``.
        z: what the activation read, the layer's Z or with a norm its N, ``(B, H)``, B ≥ 1.
        a: f of it ``(B, H)``, before dropout: a unit that was dropped is not dead.
    """
    derivative = ACTIVATIONS[activation].backward(torch.ones_like(a), z, a)
    # NaN is broken, not dead; relu's comparison takes it for 0.
    return ((derivative == 0) & ~z.isnan()).all(0).float().mean()


def saturated_share(activation: str, a: Tensor) -> Tensor:
    """Share of the entries of A ``(B, H)`` that lie within 0.01 of a bound of the activation.

    Raises:
        ValueError: an activation without two bounds.
    """
    bounds = ACTIVATIONS[activation].bounds
    if bounds is None:
        bounded = ", ".join(name for name, f in ACTIVATIONS.items() if f.bounds)
        raise ValueError(f"activation must be one of {bounded}, got {activation!r}")
    low, high = bounds
    saturated = (a <= low + SATURATION_MARGIN) | (a >= high - SATURATION_MARGIN)
    return saturated.float().mean()


def sample_gradient_norms(cache: Cache, deltas: Sequence[Tensor], norm_deltas: Sequence[Tensor] = ()) -> Tensor:
    """‖g_i‖₂ ``(B,)``: the norm over all parameters of each sample's gradient, none of which is built.

    Sample i's gradient of W_k is the outer product δ_i a_iᵀ and that of b_k is δ_i, with δ the layer's dZ and a its
    input, so ‖g_i‖² = Σ_k ‖δ_i‖² (‖a_i‖² + 1) (Goodfellow 2015, "Efficient per-example gradient computations", §4).
    A norm adds ‖ν_i · ẑ_i‖² + ‖ν_i‖², with ν its dN, for its γ and β.

    Batch norm in training ties the samples of a minibatch: each moves the statistics of all. No sample has a loss of
    its own there, and g_i is its summand in the minibatch's gradient: what flows back through its own row of Z and N.

    Args:
        cache: what ``MLP.forward`` returned.
        deltas: what ``MLP.backward`` appended for it, from the last layer to the first. A factor in them, such as
            the 1/B of a mean loss, is a factor in the norms.
        norm_deltas: likewise what it appended for the norms.

    Raises:
        ValueError: the numbers of layers or norms differ.
    """
    squares = [
        _squared_rows(dz) * (_squared_rows(a_in) + 1) for (a_in, _, _), dz in zip(cache, reversed(deltas), strict=True)
    ]
    squares += [
        _squared_rows(dn * norm_cache.z_hat) + _squared_rows(dn)
        for norm_cache, dn in zip(cache.norms, reversed(norm_deltas), strict=True)
    ]
    return torch.stack(squares).sum(0).sqrt_()


def noise_estimates(mean_squared_norm: float, squared_norm_of_mean: float, n_samples: int) -> tuple[float, float]:
    """Unbiased estimates of |G|² and tr Σ from one minibatch, G the mean and Σ the covariance of sample gradients.

    Since E‖g_i‖² = |G|² + tr Σ and E‖ḡ‖² = |G|² + tr Σ / B, these are |G|² ≈ (B ‖ḡ‖² − mean ‖g_i‖²) / (B − 1) and
    tr Σ ≈ B (mean ‖g_i‖² − ‖ḡ‖²) / (B − 1) (McCandlish et al. 2018, appendix A.1, with B_small = 1 and B_big = B).
    The first may come out negative.

    Args:
        mean_squared_norm: the mean of ‖g_i‖² over the minibatch.
        squared_norm_of_mean: ‖ḡ‖², of the mean ḡ of the g_i.
        n_samples: B ≥ 2.

    Raises:
        ValueError: ``n_samples`` outside its range.
    """
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2, got {n_samples}")
    squared_gradient = (n_samples * squared_norm_of_mean - mean_squared_norm) / (n_samples - 1)
    trace = n_samples * (mean_squared_norm - squared_norm_of_mean) / (n_samples - 1)
    return squared_gradient, trace


class NoiseScale:
    """The gradient noise scale B_simple = tr Σ / |G|², in samples (McCandlish et al. 2018, eq. 2.9).

    It tells a good batch size: far below it twice the samples a step save nearly half the steps, far above it they save
    hardly any. One minibatch's |G|² is mostly noise, so both estimates are averaged over minibatches with weights that
    fall by ``decay`` a time, and then divided: the ratio of averages, as in appendix A.1, not the biased average of
    ratios.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        # Sums, not averages: the weights' own sum cancels in the ratio.
        self._squared_gradient = 0.0
        self._trace = 0.0

    def state(self) -> list[float]:
        """Both sums, for a checkpoint."""
        return [self._squared_gradient, self._trace]

    def resume(self, state: list[float]) -> None:
        """Take up the sums of another."""
        self._squared_gradient, self._trace = state

    def update(self, mean_squared_norm: float, squared_norm_of_mean: float, n_samples: int) -> None:
        """Add one minibatch, described as in ``noise_estimates``."""
        squared_gradient, trace = noise_estimates(mean_squared_norm, squared_norm_of_mean, n_samples)
        self._squared_gradient = self.decay * self._squared_gradient + squared_gradient
        self._trace = self.decay * self._trace + trace

    @property
    def value(self) -> float | None:
        """B_simple; None while the estimate of |G|² is not positive, when the noise hides the gradient altogether."""
        return self._trace / self._squared_gradient if self._squared_gradient > 0 else None


def _squared_rows(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_widened(tensor), dim=1).square_()


def _widened(tensor: Tensor) -> Tensor:
    # Squares of half precision overflow, or lose what the noise scale's differences need.
    return tensor.float() if tensor.itemsize < 4 else tensor
