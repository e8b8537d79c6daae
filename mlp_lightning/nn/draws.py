"""Random numbers of one training step: the same for each sample, however many processes share the minibatch."""

import hashlib

import torch
from torch import Tensor


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
        drawn = torch.rand((self._size, *shape), generator=self.generator, device=self.generator.device)
        return drawn[self._first : self._first + self._rows]

    def normal(self, *shape: int) -> Tensor:
        """``(B, *shape)`` from N(0, 1), float32."""
        drawn = torch.randn((self._size, *shape), generator=self.generator, device=self.generator.device)
        return drawn[self._first : self._first + self._rows]


def mixed(*parts: int | str) -> int:
    """A seed made of several numbers and words, such that no sum of them repeats another's.

    Four bytes, since torch's CPU generator looks at no more.
    """
    words = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=4).digest(), "little")
