"""Minibatches of samples that are on the training device already: what Lightning gets instead of a DataLoader."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.data.array.mapped import MappedRows, Rows
from mlp_lightning.data.images.deform import Deform
from mlp_lightning.data.images.mixup import Mixup
from mlp_lightning.data.prefetch import one_ahead
from mlp_lightning.data.splitting.splits import train_share
from mlp_lightning.errors import UserError
from mlp_lightning.nn.draws import mixed

GATHERED_ROWS = 2048
# Samples of minibatches that are handed to an engine together: the fewer of these calls, the less they cost.
GROUPED_ROWS = 2 * GATHERED_ROWS


class Batch(NamedTuple):
    """One rank's share of a minibatch.

    ``x (B, D)`` and ``y (B,)`` train, or are evaluated; ``val_x`` and ``val_y`` validate after the step (empty unless
    the split is per batch). ``size`` counts the samples of ``x`` over all ranks: it is what a mean divides by.
    ``first`` is the place of the share's first sample among them. After mixup each sample is the part ``share`` of one
    of class ``y`` and the rest of one of class ``partner_y``; without it ``partner_y`` is None.
    """

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    size: int
    first: int = 0
    partner_y: Tensor | None = None
    share: float = 1.0

    def targets(self, n_classes: int, dtype: torch.dtype) -> Tensor:
        """What a loss compares with: ``y``, or after mixup the probabilities ``(B, K)`` of the classes."""
        if self.partner_y is None:
            return self.y
        own, partners = (F.one_hot(y, n_classes).to(dtype) for y in (self.y, self.partner_y))
        return partners.lerp_(own, self.share)


class _Cut(NamedTuple):
    """Which places of an epoch's order a minibatch takes: to train and to validate, of how many, from which on."""

    train: slice
    val: slice
    size: int
    first: int


class Batches:
    """A sized iterable over the minibatches of one epoch; the last one may be smaller.

    Every sample comes exactly once an epoch: of every minibatch each rank gets a contiguous share, and shares differ by
    at most one sample (some may be empty) since nothing is padded. With ``per_batch`` the part that trains and the part
    that validates are shared out separately.

    Lightning (2.6) finds ``sampler.set_epoch`` to announce an epoch, and ``state_dict`` to resume within one.

    Args:
        x: Samples ``(N, D)``, N ≥ 1, on the training device, or in a file: their minibatches hold the same numbers in
            the same order, and are read by a thread while the ones before are used.
        y: Targets ``(N,)``.
        batch_size: Samples in a minibatch over all ranks, at least 1.
        shuffle: Whether each epoch has an order of its own, drawn from (seed, epoch); otherwise minibatches are
            slices of ``x`` and ``y`` in their order, without a copy.
        seed: Seed of the orders.
        rank: Which share this process gets, in 0 … world_size − 1.
        world_size: Number of shares.
        per_batch: Whether each minibatch is split into samples that train and samples that validate
            (``splits.per_batch``).
        deform: What deforms the samples that train, None for nothing.
        mixup: What mixes the samples that train, after they were deformed; None for nothing. Partners may come from
            another rank's share, so each rank then deforms the whole minibatch.

    Raises:
        ValueError: an argument is outside its range, or ``per_batch`` meets ``shuffle``, which would let a sample
            validate in one epoch and train in the next.
    """

    batch_sampler = None
    # Each a ``Batch``, all of one size but the last of an epoch.
    hands_out_batches = True

    def __init__(
        self,
        x: Rows,
        y: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        per_batch: bool = False,
        deform: Deform | None = None,
        mixup: Mixup | None = None,
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
        self.deform = deform
        self.mixup = mixup
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
        # the middle: only the same epoch resumes from it.
        first = self._resume_at if self._epoch == self._resume_epoch else 0
        self._resume_at = 0
        if self.shuffle or isinstance(self.x, MappedRows):
            shares = self._gathered_shares(first)
        else:
            shares = map(self._share_in_order, range(first, len(self)))
        for index, share in zip(range(first, len(self)), shares, strict=True):
            self._handed_out = index + 1
            yield share if self.deform is None and self.mixup is None else self._changed(share, index)

    @property
    def train_sizes(self) -> set[int]:
        """How many samples train in a minibatch, over all ranks, and in the last."""
        return {self._cuts[0].size, self._cuts[-1].size}

    def _order(self) -> Tensor:
        # Drawn on the CPU, whose generator gives the same order whatever the device; moved once an epoch.
        generator = torch.Generator().manual_seed(mixed(self.seed, self._epoch))
        return torch.randperm(len(self.x), generator=generator).to(self.y.device)

    def _share_in_order(self, index: int) -> Batch:
        cut = self._cuts[index]
        return Batch(self.x[cut.train], self.y[cut.train], self.x[cut.val], self.y[cut.val], cut.size, cut.first)

    def _gathered_shares(self, first: int) -> Iterator[Batch]:
        order = self._order() if self.shuffle else torch.arange(len(self.x), device=self.y.device)
        no_x, no_y = self.x[:0], self.y[:0]

        def gather(window: range) -> list[Batch]:
            cuts = [self._cuts[index] for index in window]
            places = [cut.train for cut in cuts] + ([cut.val for cut in cuts] if self.per_batch else [])
            lengths = [place.stop - place.start for place in places]
            if self.world_size == 1 and not self.per_batch:
                # Side by side.
                gathered = order[places[0].start : places[-1].stop]
            else:
                gathered = torch.cat([order[place] for place in places])
            x = self.x.index_select(0, gathered).split(lengths)
            y = self.y.index_select(0, gathered).split(lengths)
            n = len(cuts)
            val_x, val_y = (x[n:], y[n:]) if self.per_batch else ([no_x] * n, [no_y] * n)
            return [Batch(x[k], y[k], val_x[k], val_y[k], cut.size, cut.first) for k, cut in enumerate(cuts)]

        windows = self._windows(first)
        made = one_ahead(gather, windows) if isinstance(self.x, MappedRows) else map(gather, windows)
        for batches in made:
            yield from batches

    def _windows(self, first: int) -> Iterator[range]:
        """Minibatches that are gathered together, from minibatch ``first`` on.

        Many at a time: to gather the rows of one small minibatch takes twice as long for each. Of a file as many as the
        memory allows, since each window is a pass over it; the first ones are smaller, for the training to begin.
        """
        rows, most = GATHERED_ROWS, self.x.window if isinstance(self.x, MappedRows) else GATHERED_ROWS
        while first < len(self):
            stop = min(len(self), first + max(1, min(rows, most) // self.batch_size))
            yield range(first, stop)
            first, rows = stop, 2 * rows

    def _changed(self, batch: Batch, index: int) -> Batch:
        """A minibatch after deformation and mixup, cut down to this rank's share if it is whole."""
        step = self._epoch * len(self) + index
        if self.deform is not None:
            x = self.deform(batch.x, batch.y, epoch=self._epoch, step=step, first=batch.first, size=batch.size)
            batch = batch._replace(x=x)
        if self.mixup is not None:
            own = self._share(0, batch.size)
            x, y, partner_y, share = self.mixup(batch.x, batch.y, own, step)
            batch = batch._replace(x=x, y=y, first=own.start, partner_y=partner_y, share=share)
        return batch

    @functools.cached_property
    def _cuts(self) -> list[_Cut]:
        return [self._cut(index) for index in range(len(self))]

    def _cut(self, index: int) -> _Cut:
        start = index * self.batch_size
        stop = min(start + self.batch_size, len(self.x))
        size = train_share(stop - start) if self.per_batch else stop - start
        train = self._taken(start, start + size)
        return _Cut(train, self._share(start + size, stop), size, train.start - start)

    def _taken(self, start: int, stop: int) -> slice:
        """Which of the training samples at ``start`` to ``stop`` are gathered: this rank's, or all for mixup."""
        return self._share(start, stop) if self.mixup is None else slice(start, stop)

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
