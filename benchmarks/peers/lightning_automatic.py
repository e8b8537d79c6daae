"""Lightning as it is usually written: automatic optimization, and a DataLoader over tensors or over images.

Both log the loss every 50th step, into TensorBoard and the progress bar, as ``fit`` does; neither keeps checkpoints. No
worker processes: on two cores they made the image loader slower (1.0 to 1.9 s against 0.9 s for 20,000 images).
"""

import tempfile
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from networks import Digits, torch_network
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import ToTensor

from peers.autograd import make_optimizer
from peers.epoch_clock import BARE, EpochClock
from peers.peer import AfterEpoch, Peer, Task


class Images(Dataset):
    """MNIST as torchvision hands it out: a PIL image by index, turned into a tensor ``(1, 28, 28)``."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._images = (x * 255).round().to(torch.uint8).view(-1, 28, 28)
        self._targets = y
        self._transform = ToTensor()

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index].numpy())), int(self._targets[index])


class Module(pl.LightningModule):
    """The tutorial's module."""

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__()
        self.task = task
        self.network = torch_network(task.sizes, seed)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a minibatch."""
        x, y = batch
        loss = cross_entropy(self.network(x.flatten(1)), y)
        if batch_idx % 50 == 0:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """A scheduler only where the rate changes."""
        optimizer = make_optimizer(self.network, self.task)
        if self.task.schedule == "constant":
            return optimizer
        # After the last step LambdaLR asks for one more.
        factors = [*(self.task.rates().ravel() / self.task.lr).tolist(), 0.0]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors.__getitem__)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LightningAutomatic(Peer):
    """``Trainer.fit(module, DataLoader(...))``."""

    def __init__(self, task: Task, data: Digits, loader: Literal["tensors", "images"]) -> None:
        super().__init__(task, data)
        dataset = TensorDataset if loader == "tensors" else Images
        self._loader: DataLoader = DataLoader(dataset(data.train_x, data.train_y), task.batch_size, shuffle=True)

    def start(self, seed: int) -> None:
        """Is the trainer's affair."""

    def epoch(self) -> None:
        """Is the trainer's affair."""

    def train(self, seed: int, after_epoch: AfterEpoch) -> None:
        """A new trainer each time."""
        torch.manual_seed(seed)
        self._module = Module(self.task, seed)
        with tempfile.TemporaryDirectory() as root:
            trainer = pl.Trainer(
                **BARE,
                callbacks=[EpochClock(after_epoch), TQDMProgressBar(refresh_rate=50)],
                logger=TensorBoardLogger(root),
                max_epochs=self.task.epochs,
            )
            trainer.fit(self._module, self._loader)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Of the module's network."""
        return (self._module.network(self.data.test_x).argmax(1) == self.data.test_y).float().mean().item()
