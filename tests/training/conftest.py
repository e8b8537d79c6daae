"""Small trainings through the Python interface, and what they are compared with: torch.nn modules under autograd."""

import itertools
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mlp_lightning.commands.trainer import Trainer
from mlp_lightning.data.module import DataModule
from mlp_lightning.data.sources import Dataset
from mlp_lightning.training.checkpoint import AtomicCheckpointIO
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.quiet import quiet_lightning
from mlp_lightning.training.strategy import register_strategies

CLASSES = 4
FEATURES = 12
TORCH_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def make_dataset(n: int = 90, n_test: int = 37, seed: int = 0) -> Dataset:
    """Noisy copies of one random image a class."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.rand(CLASSES, FEATURES, generator=generator)
    parts: list[Tensor] = []
    for size in (n, n_test):
        y = torch.randint(CLASSES, (size,), generator=generator)
        noise = torch.rand(size, FEATURES, generator=generator)
        parts += [(prototypes[y] + noise) / 2, y]
    return Dataset(*parts, image_shape=(3, 4), class_names=("a", "b", "c", "d"))


class WeightsAtStart(pl.Callback):
    """Keeps the weights before the first step, and every minibatch."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.batches: list[Any] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MLPModule)
        self.weights = {name: tensor.clone() for name, tensor in pl_module.network.state_dict().items()}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def make_parts(tmp_path: Path, dataset: Dataset) -> Callable[..., SimpleNamespace]:
    """Trainer, module and data module, not yet run; each has a folder of its own."""

    n_runs = itertools.count()

    def make(
        model: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        *,
        callbacks: Sequence[pl.Callback] = (),
        **trainer: Any,
    ) -> SimpleNamespace:
        quiet_lightning()
        register_strategies()
        datamodule = DataModule(**{"batch_size": 16, "validation_size": 20, **(data or {})})
        datamodule._data = dataset
        start = WeightsAtStart()
        settings = {
            "accelerator": "cpu",
            "default_root_dir": tmp_path / f"run {next(n_runs)}",
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "log_every_n_steps": 2,
            "logger": False,
            "max_epochs": 2,
            "num_sanity_val_steps": 0,
            **trainer,
        }
        return SimpleNamespace(
            trainer=Trainer(callbacks=[start, *callbacks], plugins=[AtomicCheckpointIO()], **settings),
            module=MLPModule(**{"hidden": [7, 5], **(model or {})}),
            data=datamodule,
            start=start,
            checkpoints=Path(settings["default_root_dir"]) / "checkpoints",
        )

    return make


@pytest.fixture
def fit(make_parts) -> Callable[..., SimpleNamespace]:
    """A whole training; returns what ``make_parts`` made."""

    def run(*options: Any, ckpt_path: str | Path | None = None, **settings: Any) -> SimpleNamespace:
        parts = make_parts(*options, **settings)
        path = None if ckpt_path is None else str(ckpt_path)
        parts.trainer.fit(parts.module, parts.data, ckpt_path=path, weights_only=True)
        return parts

    return run


def sequential(weights: dict[str, Tensor], activation: str = "relu") -> nn.Sequential:
    """torch.nn.Linear layers that hold ``weights``, named as in a checkpoint, with activations between them."""
    modules: list[nn.Module] = []
    n_layers = len(weights) // 2
    for k in range(n_layers):
        weight, bias = weights[f"layers.{k}.weight"], weights[f"layers.{k}.bias"]
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear] if k == n_layers - 1 else [linear, TORCH_ACTIVATIONS[activation]()]
    return nn.Sequential(*modules)


@pytest.fixture(scope="session")
def torch_network() -> Callable[..., nn.Sequential]:
    return sequential


@pytest.fixture(scope="session")
def named_weights() -> Callable[[nn.Sequential], dict[str, Tensor]]:
    """The weights of ``torch_network`` under the names of a checkpoint."""

    def name(network: nn.Sequential) -> dict[str, Tensor]:
        linears = [module for module in network if isinstance(module, nn.Linear)]
        return {
            f"layers.{k}.{kind}": tensor.detach()
            for k, linear in enumerate(linears)
            for kind, tensor in (("weight", linear.weight), ("bias", linear.bias))
        }

    return name


def _work(rank: int, n: int, port: int, function: Callable[[int], Any], folder: Path) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="tests")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=n)
    result = function(rank)
    torch.save(result, folder / f"{rank}.pt")
    # Rank 0 keeps the store: nobody leaves before all are done.
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def in_processes(tmp_path: Path) -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """What ``function(rank)`` returns in each of n forked processes of a gloo group, by rank; raises what one raises.

    They are to each other what ``torchrun`` would have made of them, so one start does for many trainings.
    """

    def run(n: int, function: Callable[[int], Any]) -> list[Any]:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        folder = tmp_path / f"ranks {port}"
        folder.mkdir()
        mp.start_processes(_work, (n, port, function, folder), nprocs=n, start_method="fork")
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(n)]

    return run
