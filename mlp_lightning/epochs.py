"""Epochs of a loop, each with its record: losses, a validation, and the end of a training that no longer improves."""

from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from mlp_lightning.data.batches import Batches
from mlp_lightning.engines.native.denormals import no_denormals
from mlp_lightning.loop import Loop

# Losses and scores of an epoch, by their names.
Record = dict[str, float]


class Validation(NamedTuple):
    """What is evaluated after each epoch.

    Args:
        x: samples ``(N, D)``.
        targets: what the loss takes.
        judge: the scores of outputs ``(N, K)``, by their names.
    """

    x: Tensor
    targets: Tensor
    judge: Callable[[Tensor], Record]


def run_epochs(
    loop: Loop, batches: Batches, epochs: int, validation: Validation | None = None, patience: int | None = None
) -> Generator[Record, None, None]:
    """Train for some epochs, and yield the record of each.

    Where there is patience, the evaluated network holds the weights of the best epoch in the end, also after ``close``.

    Args:
        loop: which trains.
        batches: an epoch.
        epochs: how many at most.
        validation: None for none.
        patience: ends the training when ``val/loss`` has not improved for so many epochs; None for never.

    Raises:
        NotFinite: a step was not finite.
    """
    best, kept, waited = float("inf"), None, 0
    network = loop.evaluated_network
    # In 64 bits nothing needs it, nor waits for the compiler to have done.
    is_single = network.flat.dtype == torch.float32
    try:
        with no_denormals() if is_single else nullcontext():
            for _ in range(epochs):
                record: Record = {"train/loss": loop.run_epoch(batches)}
                if validation is not None:
                    outputs, loss = loop.evaluate(validation.x, validation.targets)
                    record |= {"val/loss": loss, **validation.judge(outputs)}
                    if patience is not None and loss < best:
                        best, waited = loss, 0
                        kept = {name: value.clone() for name, value in network.state_dict().items()}
                    else:
                        waited += 1
                yield record
                if patience is not None and waited >= patience:
                    return
    finally:
        if kept is not None:
            network.load_state_dict(kept)


def line_of(epoch: int, record: Record) -> str:
    """A record for a reader."""
    return f"epoch {epoch:4d}  " + "  ".join(f"{name} {value:.4f}" for name, value in record.items())
