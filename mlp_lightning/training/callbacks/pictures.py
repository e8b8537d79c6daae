"""The callback that draws: digits, confusion matrices, mistakes, first-layer weights and the three curves.

Samples that are no images have no digits, mistakes and weights to draw.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mlp_lightning.data.batches import Batch
from mlp_lightning.data.module import DataModule
from mlp_lightning.engines.ranks import gather_from_ranks
from mlp_lightning.figures import (
    confusion_figure,
    curves_figure,
    deformed_figure,
    digits_figure,
    mistakes_figure,
    save_png,
    to_rgb,
    weights_figure,
)
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.run_folder import run_folder, tensorboard, tensorboard_logger
from mlp_lightning.training.runs.run_logger import RunLogger

CURVES = ["train/loss", "val/loss", "val/accuracy"]
DIGITS_SHOWN = 20
MISTAKES_SHOWN = 25
DEFORMED_SHOWN = 10


class Pictures(pl.Callback):
    """Draws into TensorBoard, and keeps the last state of each picture as a PNG in the run's folder.

    Of the validations of a training the 1st, 2nd, 4th, 8th, … and the last are drawn: to draw one takes as long as to
    train for some hundred steps, and TensorBoard shows but ten pictures of a kind.
    """

    def __init__(self) -> None:
        self._mistakes: list[tuple[Tensor, ...]] = []
        self._validations = 0
        self._shown: list[str] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Count the validations of a training from its beginning."""
        self._validations, self._shown = 0, []

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, and which pictures of the training's data were shown."""
        return {"validations": self._validations, "shown": self._shown}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._validations = state_dict["validations"]
        # Checkpoints from before this was noted had shown the digits at their start.
        self._shown = list(state_dict.get("shown", ["digits"]))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the first training images, and deformed ones; lay out the chart of the notebook's three curves."""
        writer = tensorboard(trainer)
        if writer is None:
            return
        writer.add_custom_scalars_multilinechart(CURVES, category="training", title="loss and accuracy")
        data = _datamodule(trainer).data
        if not data.image_shape:
            return
        images = data.train_x[:DIGITS_SHOWN].view(-1, *data.image_shape)
        labels = data.train_y[:DIGITS_SHOWN]
        title = f"The first {len(labels)} training images"
        if not _carries_curves(trainer):
            self._shown = []
        self._show_once(trainer, "digits", "digits", digits_figure(images, labels, data.class_names, title))
        if _datamodule(trainer).deform.is_on:
            self._show_once(trainer, "deformed", f"deformed: {_datamodule(trainer).deform}", _deformed(trainer))

    def _show_once(self, trainer: pl.Trainer, tag: str, content: str, figure: Figure) -> None:
        """Show a picture unless a resumed run's events have one of this content; the run's folder gets its PNG."""
        self._show(trainer, tag, figure, png=True, event=content not in self._shown)
        self._shown = [*dict.fromkeys((*self._shown, content))]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the confusion matrix of the validation set, if it is its turn."""
        if trainer.sanity_checking:
            return
        trains = trainer.state.fn == "fit"
        self._validations += trains
        if tensorboard(trainer) is not None and (not trains or self._was_drawn):
            self._show(trainer, "confusion/val", self._confusion(trainer, pl_module, "val"), png=not trains)

    @property
    def _was_drawn(self) -> bool:
        """Whether the validation before was drawn in its turn, as those are whose number is a power of two."""
        return self._validations.bit_count() == 1

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the curves, the last validation confusion matrix and the first layer's weights."""
        if tensorboard(trainer) is None:
            return
        assert isinstance(pl_module, MLPModule)
        history = {name: series for name, series in pl_module.curves.history.items() if name in CURVES}
        self._show(trainer, "curves", curves_figure(history, f"Training, {trainer.current_epoch} epochs"), png=True)
        if "val" in pl_module.counts:
            figure = self._confusion(trainer, pl_module, "val")
            self._show(trainer, "confusion/val", figure, png=True, event=not self._was_drawn)
        if _datamodule(trainer).data.image_shape:
            self._show(trainer, "weights", self._weights(trainer, pl_module), png=True)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the mistakes of an earlier test."""
        self._mistakes = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the mistakes of a batch."""
        confidences, predictions = torch.softmax(outputs, 1).max(1)
        wrong = (predictions != batch.y).nonzero().squeeze(1)
        found = (batch.x.float(), batch.y, predictions, confidences.float())
        self._mistakes.append(tuple(tensor.index_select(0, wrong).cpu() for tensor in found))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the confusion matrix of the test set and the mistakes made with most confidence."""
        # Asked of every process, since each has met the mistakes of its own share.
        mistakes = [batch for share in gather_from_ranks(self._mistakes) for batch in share]
        if tensorboard(trainer) is None:
            return
        self._show(trainer, "confusion/test", self._confusion(trainer, pl_module, "test"), png=True)
        data = _datamodule(trainer).data
        if not data.image_shape:
            return
        x, targets, predictions, confidences = (torch.cat(parts) for parts in zip(*mistakes, strict=True))
        worst = confidences.argsort(descending=True)[:MISTAKES_SHOWN]
        title = f"Most confidently wrong of {len(x)} mistakes in {len(data.test_y)} test images"
        figure = mistakes_figure(
            x[worst].view(-1, *data.image_shape),
            targets[worst],
            predictions[worst],
            confidences[worst],
            data.class_names,
            title,
        )
        self._show(trainer, "mistakes", figure, png=True)

    def _confusion(self, trainer: pl.Trainer, module: pl.LightningModule, part: str) -> Figure:
        assert isinstance(module, MLPModule)
        name = {"val": "Validation", "test": "Test"}[part]
        title = name if module.judged is None else f"{name}, {module.judged}"
        return confusion_figure(module.counts[part], _datamodule(trainer).data.class_names, title)

    def _weights(self, trainer: pl.Trainer, module: pl.LightningModule) -> Figure:
        assert isinstance(module, MLPModule)
        weight = module.network.layers[0].weight.float().cpu()
        return weights_figure(weight, _datamodule(trainer).data.image_shape, "First-layer weights")

    def _show(self, trainer: pl.Trainer, tag: str, figure: Figure, *, png: bool, event: bool = True) -> None:
        writer, folder = tensorboard(trainer), run_folder(trainer)
        assert writer is not None
        assert folder is not None
        if event:
            writer.add_image(tag, to_rgb(figure), trainer.global_step, dataformats="HWC")
        if png:
            save_png(figure, folder / f"{tag.replace('/', '_')}.png")


def _carries_curves(trainer: pl.Trainer) -> bool:
    """Whether the events of an earlier run precede those of this one."""
    logger = tensorboard_logger(trainer)
    return isinstance(logger, RunLogger) and logger.carries_curves


def _deformed(trainer: pl.Trainer) -> Figure:
    """The first image of up to ten classes, and what training makes of it."""
    datamodule, data = _datamodule(trainer), _datamodule(trainer).data
    classes = data.train_y.unique()[:DEFORMED_SHOWN]
    firsts = torch.stack([(data.train_y == k).nonzero()[0, 0] for k in classes])
    originals = data.train_x[firsts]
    deform, device = datamodule.make_deform(), trainer.strategy.root_device
    x, y = (part.repeat_interleave(DEFORMED_SHOWN, 0).to(device) for part in (originals, classes))
    versions = deform(x, y, epoch=trainer.current_epoch, step=trainer.global_step).cpu()
    shape, names = data.image_shape, [data.class_names[k] for k in classes]
    title = f"Training images, deformed ({datamodule.deform})"
    return deformed_figure(originals.view(-1, *shape), versions.view(len(names), -1, *shape), names, title)


def _datamodule(trainer: pl.Trainer) -> DataModule:
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(datamodule, DataModule)
    return datamodule
