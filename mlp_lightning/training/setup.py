"""Set a module up on its data as a fit would, without training: for commands that look at a step."""

from dataclasses import dataclass

import lightning.pytorch as pl

from mlp_lightning.data.batches import Batches
from mlp_lightning.data.length import length_of, limited
from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.module import MLPModule


@dataclass(frozen=True)
class Setup:
    """The minibatches of an epoch, and the length of the training in updates."""

    batches: Batches
    steps_per_epoch: int
    total_steps: float


def set_up(trainer: pl.Trainer, module: MLPModule, datamodule: DataModule, ckpt_path: str | None) -> Setup:
    """Load the data, build the network at the trainer's precision on its device, and load a checkpoint's weights.

    Raises:
        UserError: a checkpoint that does not fit, or more than one device.
    """
    if trainer.world_size != 1:
        raise UserError(f"trainer.devices: got {trainer.world_size} in all, must be 1: this command is one process")
    trainer.datamodule = datamodule  # type: ignore[attr-defined]
    module.trainer = datamodule.trainer = trainer
    datamodule.setup("fit")
    batches = datamodule.train_dataloader()
    # As Lightning does it, so that the initial weights are those of a training in this precision.
    with trainer.precision_plugin.tensor_init_context():
        module.configure_model()
    if ckpt_path is not None:
        _load_weights(module, ckpt_path)
    trainer.precision_plugin.convert_module(module).to(trainer.strategy.root_device)
    length = length_of(trainer, limited(len(batches), trainer.limit_train_batches))
    return Setup(batches, length.steps_per_epoch, length.steps)


def _load_weights(module: MLPModule, ckpt_path: str) -> None:
    try:
        module.load_state_dict(read_checkpoint(ckpt_path)["state_dict"])
    except RuntimeError as error:
        raise UserError(f"--ckpt_path: {ckpt_path} does not fit this network: {error}") from error
