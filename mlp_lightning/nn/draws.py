"""Random numbers of one training step: the same for each sample, however many processes share the minibatch."""

import hashlib

import torch
from torch import Tensor

# A draw of ``keep`` has sixteen bits.
LEVELS = 2**16


class Draws:
    """Random numbers that follow from (seed, purpose, step) and a sample's row in the minibatch, and nothing else.

    So a training that was resumed, or that spreads its minibatches over several processes, draws what the straight one
    on a single process does: each process draws for the whole minibatch and takes its own rows.

    Args:
        seed: of the run.
        purpose: a word that tells these numbers from others of the same run.
        device: where the numbers are drawn; a CPU and a GPU draw different ones.
    """

    def __init__(self, seed: int, purpose: str, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.purpose = purpose
        self.generator = torch.Generator(device)
        self._size = self._first = self._rows = 0

    def start(self, step: int, rows: int, first: int = 0, size: int | None = None) -> None:
        """Begin a step.

        Args:
            step: counted from 0.
            rows: B, the rows of this process's share.
            first: the place of the first of them in the minibatch.
            size: rows of the whole minibatch; None for ``rows``.
        """
        self.generator.manual_seed(mixed(self.seed, self.purpose, step))
        self._rows, self._first, self._size = rows, first, rows if size is None else size

    def uniform(self, *shape: int) -> Tensor:
        """``(B, *shape)`` from [0, 1), float32."""
        # The dtype is named: Lightning's precision sets another default.
        shape = self._size, *shape
        drawn = torch.rand(shape, generator=self.generator, device=self.generator.device, dtype=torch.float32)
        return drawn[self._first : self._first + self._rows]

    def normal(self, *shape: int) -> Tensor:
        """``(B, *shape)`` from N(0, 1), float32."""
        shape = self._size, *shape
        drawn = torch.randn(shape, generator=self.generator, device=self.generator.device, dtype=torch.float32)
        return drawn[self._first : self._first + self._rows]

    def keep(self, p: float, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(B, width)`` of 0, with probability 1 − ``kept_share(p)``, and 1.

        Four draws are cut from each 64-bit number, which costs a fifteenth of torch's ``bernoulli_`` on a CPU.

        Args:
            p: the probability of 0, in [0, 1).
            width: entries of a row.
            dtype: of the result.
        """
        count, device = self._size * width, self.generator.device
        words = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
        words.random_(-(2**63), None, generator=self.generator)
        bits = words.view(torch.int16)[:count].view(self._size, width)[self._first : self._first + self._rows]
        kept = torch.empty(bits.shape, dtype=dtype, device=device)
        # Written as numbers at once: by way of bool it would take three times as long.
        return torch.ge(bits, round((1 - kept_share(p)) * LEVELS) - LEVELS // 2, out=kept)


def kept_share(p: float) -> float:
    """1 − p as ``Draws.keep`` has it: a multiple of 2⁻¹⁶, and never 0.

    Raises:
        ValueError: ``p`` is outside [0, 1).
    """
    if not 0 <= p < 1:
        raise ValueError(f"p must be in [0, 1), got {p}")
    return max(1, LEVELS - round(p * LEVELS)) / LEVELS


def mixed(*parts: int | str) -> int:
    """A seed made of several numbers and words, such that no sum of them repeats another's.

    Four bytes, since torch's CPU generator looks at no more.

    Two generators of a run take its seed as it is: one draws the initial weights, the other which samples validate. A
    purpose would change every weight and split that a seed stands for. They share the generator's numbers but no use
    of them: weights take these as normal or uniform numbers, the split as an order of the samples. The orders of
    epochs come from (seed, epoch), which no purpose can repeat.
    """
    words = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=4).digest(), "little")
