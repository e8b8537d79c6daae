"""Minibatches of samples that are on the training device already: what Lightning gets instead of a DataLoader."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.splits import train_share
from mlp_lightning.errors import UserError
from mlp_lightning.nn.draws import mixed

GATHERED_ROWS = 2048


class Batch(NamedTuple):
    """One rank's share of a minibatch.

    ``x (B, D)`` and ``y (B,)`` train, or are evaluated; ``val_x`` and ``val_y`` validate after the step (empty unless
    the split is per batch). ``size`` counts the samples of ``x`` over all ranks: it is what a mean divides by.
    ``first`` is the place of the share's first sample among them.
    """

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    size: int
    first: int = 0


class Batches:
    """A sized iterable over the minibatches of one epoch; the last one may be smaller.

    Every sample comes exactly once an epoch: of every minibatch each rank gets a contiguous share, and shares differ by
    at most one sample (some may be empty) since nothing is padded. With ``per_batch`` the part that trains and the part
    that validates are shared out separately.

    Lightning (2.6) finds ``sampler.set_epoch`` to announce an epoch, and ``state_dict`` to resume within one.

    Args:
        x: Samples ``(N, D)``, N ≥ 1.
        y: Targets ``(N,)``.
        batch_size: Samples in a minibatch over all ranks, at least 1.
        shuffle: Whether each epoch has an order of its own, drawn from (seed, epoch); otherwise minibatches are
            slices of ``x`` and ``y`` in their order, without a copy.
        seed: Seed of the orders.
        rank: Which share this process gets, in 0 … world_size − 1.
        world_size: Number of shares.
        per_batch: Whether each minibatch is split into samples that train and samples that validate
            (``splits.per_batch``).

    Raises:
        ValueError: an argument is outside its range, or ``per_batch`` meets ``shuffle``, which would let a sample
            validate in one epoch and train in the next.
    """

    batch_sampler = None

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        per_batch: bool = False,
    ) -> None:
        if len(x) == 0 or len(x) != len(y):
            raise ValueError(f"x and y must hold the same number of samples, at least 1, got {len(x)} and {len(y)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0 … world_size − 1, got rank {rank} and world_size {world_size}")
        if per_batch and shuffle:
            raise ValueError("shuffle must be False with per_batch, got True: validation samples would train later")
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.per_batch = per_batch
        self._epoch = 0
        self._handed_out = 0
        self._resume_at = 0
        self._resume_epoch = 0

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: Lightning asks for the iterator before it announces the epoch, and nothing here runs until the
        # first minibatch is asked for.
        # A checkpoint at the end of an epoch that Lightning cut short was made after a position that looks like one in
        # the middle: only the same epoch goes on from it.
        first = self._resume_at if self._epoch == self._resume_epoch else 0
        self._resume_at = 0
        shares = self._shuffled_shares(first) if self.shuffle else map(self._share_in_order, range(first, len(self)))
        for index, share in zip(range(first, len(self)), shares, strict=True):
            self._handed_out = index + 1
            yield share

    def _order(self) -> Tensor:
        # Drawn on the CPU, whose generator gives the same order whatever the device; moved once an epoch.
        generator = torch.Generator().manual_seed(mixed(self.seed, self._epoch))
        return torch.randperm(len(self.x), generator=generator).to(self.x.device)

    def _share_in_order(self, index: int) -> Batch:
        start, stop = self._bounds(index)
        size = train_share(stop - start) if self.per_batch else stop - start
        train, val = self._share(start, start + size), self._share(start + size, stop)
        return Batch(self.x[train], self.y[train], self.x[val], self.y[val], size, train.start - start)

    def _shuffled_shares(self, first: int) -> Iterator[Batch]:
        order, no_x, no_y = self._order(), self.x[:0], self.y[:0]
        # Many at a time: to gather the rows of one small minibatch takes twice as long for each.
        ahead = max(1, GATHERED_ROWS // self.batch_size)
        for begin in range(first, len(self), ahead):
            bounds = [self._bounds(index) for index in range(begin, min(begin + ahead, len(self)))]
            shares = [self._share(start, stop) for start, stop in bounds]
            rows = [order[share] for share in shares]
            lengths = [len(share) for share in rows]
            gathered = torch.cat(rows)
            x, y = self.x.index_select(0, gathered), self.y.index_select(0, gathered)
            parts = zip(bounds, shares, x.split(lengths), y.split(lengths), strict=True)
            for (start, stop), share, share_x, share_y in parts:
                yield Batch(share_x, share_y, no_x, no_y, stop - start, share.start - start)

    def _bounds(self, index: int) -> tuple[int, int]:
        """Where in the epoch's order a minibatch starts and stops."""
        start = index * self.batch_size
        return start, min(start + self.batch_size, len(self.x))

    def _share(self, start: int, stop: int) -> slice:
        """This rank's samples of those at ``start`` to ``stop``."""
        n = stop - start
        return slice(start + n * self.rank // self.world_size, start + n * (self.rank + 1) // self.world_size)

    @property
    def sampler(self) -> "Batches":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """How many minibatches of which epoch were handed out; 0 at its end."""
        return {"handed_out": self._handed_out % len(self), "epoch": self._epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration, and it alone, start after the minibatches that were handed out.

        Raises:
            UserError: there are not that many, since the samples or ``batch_size`` differ from the checkpoint's.
        """
        handed_out = state["handed_out"]
        if not 0 <= handed_out < len(self):
            raise UserError(
                f"data.batch_size: got {self.batch_size}, that is {len(self)} minibatches an epoch, but the checkpoint "
                f"was made after {handed_out} of an epoch; resume with its data and batch size"
            )
        self._resume_at = self._handed_out = handed_out
        # Kept to compare with: which epoch comes next is Lightning's to say, through ``set_epoch``.
        self._resume_epoch = state["epoch"]

