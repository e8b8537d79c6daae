"""Processes that are started within a fit, as in a notebook, and give back what they came to."""

import io
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher, _WorkerOutput

RESULTS = "module"


class GivesResults(Protocol):
    """A module whose results another process can take."""

    def given_results(self) -> dict[str, Any]:
        """Weights, curves and results."""

    def take_results(self, results: dict[str, Any]) -> None:
        """Take what ``given_results`` gave in another process."""


class ReturningLauncher(_MultiProcessingLauncher):
    """Lightning's, after whose fit the module of the first process has the weights, curves and results of the others.

    Lightning gives back the state dict; but the network is built in the processes, by the data, so here there is none
    yet to take it.
    """

    def get_extra_results(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What rank 0 gives back."""
        buffer = io.BytesIO()
        # As bytes, for a tensor goes through a queue as a handle of memory that ends with its process.
        torch.save(_module(trainer).given_results(), buffer)
        return {**super().get_extra_results(trainer), RESULTS: buffer.getvalue()}

    def _recover_results_in_main_process(self, worker_output: _WorkerOutput, trainer: pl.Trainer) -> None:
        results = torch.load(io.BytesIO(worker_output.extra[RESULTS]), weights_only=True, map_location="cpu")
        _module(trainer).take_results(results)
        super()._recover_results_in_main_process(worker_output, trainer)


def _module(trainer: pl.Trainer) -> GivesResults:
    return cast(GivesResults, trainer.lightning_module)
