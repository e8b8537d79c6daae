"""Mixup: training samples and their targets are averaged in pairs."""

import random

import torch
from torch import Tensor

from mlp_lightning.nn.draws import Draws, mixed


class Mixup:
    """x ← λ x + (1 − λ) x[partner], and the same of the one-hot targets, λ ~ Beta(alpha, alpha).

    The partners are a permutation of the whole minibatch and λ is one number for all of it, as in the authors' code
    (Zhang et al. 2018, figure 1a and section 3). Near alpha = 0 λ is almost always 0 or 1, at 1 it is uniform.

    Args:
        alpha: above 0.
        seed: of the run.
        device: where the samples are.
    """

    def __init__(self, alpha: float, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.alpha, self.seed = alpha, seed
        self._draws = Draws(seed, "mixup partners", device)

    def __call__(self, x: Tensor, y: Tensor, own: slice, step: int) -> tuple[Tensor, Tensor, Tensor, float]:
        """The mixed samples of this process's share, both targets of each, and λ.

        Args:
            x: the whole minibatch ``(B, D)``, which partners may come from.
            y: its targets ``(B,)``.
            own: which of them are this process's share.
            step: of the training, counted from 0.
        """
        share = random.Random(mixed(self.seed, "mixup share", step)).betavariate(self.alpha, self.alpha)
        self._draws.start(step, len(x))
        # The order of random numbers is a random permutation.
        partners = self._draws.uniform().argsort()[own]
        return x.index_select(0, partners).lerp_(x[own], share), y[own], y.index_select(0, partners), share
