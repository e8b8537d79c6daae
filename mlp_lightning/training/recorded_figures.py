"""The figures of Health on a GPU, recorded: their hundred small kernels take longer to launch than to run."""

import torch
from torch import Tensor

from mlp_lightning.nn import MLP
from mlp_lightning.nn.losses import Loss
from mlp_lightning.training.cuda_graphs import recording
from mlp_lightning.training.health_figures import minibatch_figures


class RecordedFigures:
    """``minibatch_figures`` of minibatches on a GPU; each call overwrites what the one before returned.

    Args:
        network: on a GPU.
        loss: with reduction ``"sum"``.
        reduction: of the step.
    """

    def __init__(self, network: MLP, loss: Loss, reduction: str) -> None:
        self._of = network, loss
        self._reduction = reduction
        self._place: tuple[object, ...] = ()

    def __call__(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The figures of inputs ``(B, D)`` and targets ``(B,)`` or ``(B, K)``."""
        network, _ = self._of
        place = (x.shape, y.shape, network.flat.data_ptr(), network.flat_grad.data_ptr())
        if place != self._place:
            self._record(x, y)
            self._place = place
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        return dict(self._figures)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _record(self, x: Tensor, y: Tensor) -> None:
        self._x, self._y = torch.empty_like(x), torch.empty_like(y)
        self._x.copy_(x)
        self._y.copy_(y)
        # Loads the kernels, and gives cuBLAS its memory.
        minibatch_figures(*self._of, self._x, self._y, self._reduction)
        self._graph = torch.cuda.CUDAGraph()
        with recording(self._graph):
            self._figures = minibatch_figures(*self._of, self._x, self._y, self._reduction)
