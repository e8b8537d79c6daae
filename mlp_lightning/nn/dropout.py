"""Dropout A ← A ⊙ M, inverted, and its backward pass; the masks M of a training's steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mlp_lightning.nn.draws import Draws, kept_share


def dropout_forward(a: Tensor, mask: Tensor | None, out: Tensor | None = None) -> Tensor:
    """A ⊙ M, entry by entry; A itself without a mask.

    An entry of M is 0 with probability p, else 1/(1 − p), independently of all others, so that E[A ⊙ M] = A: what the
    next layer reads has the same mean with dropout and without, and evaluation needs no factor (Srivastava et al. 2014,
    section 10, call this scaling at training time).

    Args:
        a: A ``(B, D)``.
        mask: M ``(B, D)``, of A's dtype.
        out: where to write the result; None for new memory.
    """
    return a if mask is None else torch.mul(a, mask, out=out)


def dropout_backward(da: Tensor, mask: Tensor | None) -> Tensor:
    """dA ⊙ M, written into ``da`` ``(B, D)``: an entry that was dropped has no part in the loss."""
    return da if mask is None else da.mul_(mask)


class Dropout:
    """The masks of every step of a training, which follow from (seed, step) and a sample's row in the minibatch.

    Args:
        sizes: widths of the network's input, its hidden layers and its output.
        p: probability to drop an activation of a hidden layer, in [0, 1).
        input_p: probability to drop an entry of the input, in [0, 1).
        seed: of the run.
        device: where the masks are drawn and used.
        dtype: of the masks. In half precision 1/(1 − p) is rounded to it, as torch does.

    Raises:
        ValueError: a probability outside its range.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        p: float,
        input_p: float,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        self._draws = Draws(seed, "dropout", device)
        probabilities = [input_p] + [p] * (len(sizes) - 2)
        # Draws come in steps of 2⁻¹⁶: the scale is that of the probability they really have.
        self._layers = [(width, q, 1 / kept_share(q)) for width, q in zip(sizes[:-1], probabilities, strict=True)]

    def masks(self, step: int, rows: int, first: int = 0, size: int | None = None) -> list[Tensor | None]:
        """M ``(B, D)`` of every layer's input, None where nothing is dropped; arguments as of ``Draws.start``."""
        self._draws.start(step, rows, first, size)
        return [self._draws.keep(p, width, self.dtype).mul_(scale) if p else None for width, p, scale in self._layers]
