"""The average of the weights beside torch's, over the first steps of the training and over the whole of it."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn, get_swa_avg_fn

from mlp_lightning.commands.check.verdict import Row, compare, worst
from mlp_lightning.data.batches import Batch
from mlp_lightning.optim.averaging import average_
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.options import AVERAGINGS

# Averages are cheap: that of one number is followed over a whole training, up to here.
MOST_STEPS = 20_000


class AverageBeside(pl.Callback):
    """Repeats each step's averaging with torch's functions, from the same average and weights.

    Args:
        options: the module's.
        total_steps: of the whole training; infinite when it has no end.
    """

    def __init__(self, options: Mapping[str, Any], total_steps: float) -> None:
        self.options, self.total_steps = options, total_steps
        self._rows: list[Row] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the average from before the step."""
        assert isinstance(pl_module, MLPModule)
        self._before = pl_module.averaged_network.flat.detach().to(torch.float64, copy=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Compare the average from after it."""
        assert isinstance(pl_module, MLPModule)
        ours, newest = pl_module.averaged_network.flat.detach(), pl_module.network.flat.detach()
        expected = self._torch_average(self._before, newest.to(torch.float64), trainer.global_step - 1)
        allowed = 4 * torch.finfo(ours.dtype).eps * float(newest.abs().max())
        self._rows.append(compare("average", ours, expected, allowed))

    def rows(self, module: MLPModule) -> list[Row]:
        """The worst of all steps, and the average of the numbers 1, 2, 3, … over the training's steps."""
        averaging = module.make_averaging(self.total_steps)
        assert averaging is not None
        ours = torch.zeros(1, dtype=torch.float64)
        expected, averages = ours.clone(), []
        steps = int(min(MOST_STEPS, self.total_steps))
        for t in range(steps):
            newest = torch.full_like(ours, t + 1)
            average_(ours, newest, averaging(t))
            expected = self._torch_average(expected, newest, t)
            averages.append(torch.cat([ours, expected]))
        found, wanted = torch.stack(averages).unbind(1)
        return [
            worst(self._rows, f"average of the weights, steps 1–{len(self._rows)}"),
            compare(f"average of the step's number, steps 1–{steps}", found, wanted, 1e-10 * steps),
        ]

    def _torch_average(self, average: Tensor, newest: Tensor, t: int) -> Tensor:
        name = self.options["averaging"]
        settings = {
            key: default if self.options[key] is None else self.options[key]
            for key, default in AVERAGINGS[name].items()
        }
        if name == "ema":
            decay = min(settings["ema_decay"], (1 + t) / (10 + t))
            return get_ema_avg_fn(decay)(average, newest, t)
        n_averaged = t - math.floor(Fraction(str(settings["swa_start"])) * self.total_steps)
        # torch's model of averages starts as a copy of the first weights that it is given.
        return newest if n_averaged <= 0 else get_swa_avg_fn()(average, newest, n_averaged)
