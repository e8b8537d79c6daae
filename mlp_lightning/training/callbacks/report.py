"""The callback that tells: the network before training, one table and ``metrics.json`` after it."""

import math
import platform
import sys
import time
from typing import Any

import lightning
import lightning.pytorch as pl
import torch

from mlp_lightning.invocation import version_of_package
from mlp_lightning.printable import printable
from mlp_lightning.training.callbacks.tables import data_table, imbalance, network_table, results_table
from mlp_lightning.training.evaluation import class_accuracy
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.run_folder import run_folder, tell, tensorboard_logger, write_json

VERSIONS = {
    "mlp_lightning": version_of_package(),
    "python": platform.python_version(),
    "torch": torch.__version__,
    "lightning": lightning.__version__,
}


class Report(pl.Callback):
    """Times the training, writes ``metrics.json`` and prints the table.

    ``seconds`` is the wall time of the whole training, the time before a checkpoint included, from the
    moment at which what the steps need is compiled and loaded;
    ``train_seconds`` leaves validation and its pictures out, and ``images_per_second`` is the number of training images
    that the steps of this fit saw over their share of it.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        self._paused = 0.0
        self._module: MLPModule | None = None
        self._seconds_before, self._train_seconds_before = 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """How long the training has taken so far."""
        seconds, train_seconds = self._clocks()
        return {"seconds": seconds, "train_seconds": train_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._seconds_before, self._train_seconds_before = state_dict["seconds"], state_dict["train_seconds"]

    def _clocks(self) -> tuple[float, float]:
        elapsed = 0.0 if self._module is None else time.perf_counter() - self._module.ready_at
        return self._seconds_before + elapsed, self._train_seconds_before + elapsed - self._paused

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the data, and the network, which Lightning's summary cannot see in one flat tensor."""
        assert isinstance(pl_module, MLPModule)
        if trainer.is_global_zero:
            datamodule = trainer.datamodule  # type: ignore[attr-defined]
            names, counts = datamodule.data.class_names, datamodule.part_counts
            print(f"{data_table(names, counts)}\n")
            warning = imbalance(names, counts["train"])
            if warning is not None and pl_module.class_weights is None:
                print(printable(warning), file=sys.stderr)
            print(network_table(pl_module.network, pl_module.hparams["activation"]))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the engine, and start the clock as soon as the module is ready."""
        assert isinstance(pl_module, MLPModule)
        chosen = pl_module.choose_engine()
        self.metrics["engine"] = chosen.engine.name
        tell("", chosen.line)
        self._paused = 0.0
        self._module = pl_module

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock go on."""
        self._paused += time.perf_counter() - self._pause

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock for good."""
        assert isinstance(pl_module, MLPModule)
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        seconds, train_seconds = self._clocks()
        self.metrics |= {
            "seconds": round(seconds, 3),
            "train_seconds": round(train_seconds, 3),
            "images_per_second": round(pl_module.samples_seen / (train_seconds - self._train_seconds_before), 1),
        }

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what is known before the test, which may be turned off or interrupted."""
        # Not at the end of training: where that was complete in the checkpoint, there is none.
        assert isinstance(pl_module, MLPModule)
        self.metrics |= {"steps": trainer.global_step, "epochs": trainer.current_epoch}
        if not pl_module.samples_seen:
            tell(f"nothing is left to train: {_why_nothing_is_left(trainer)}")
        if pl_module.hparams["nonfinite"] == "skip":
            self.metrics["skipped_steps"] = pl_module.skipped_steps
        self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, MLPModule)
        class_names = trainer.datamodule.data.class_names  # type: ignore[attr-defined]
        self.metrics |= module.results
        if module.judged is not None:
            self.metrics["weights"] = module.judged._asdict()
        if "train/loss" in module.curves.history:
            self.metrics["train/loss"] = module.curves.history["train/loss"][1][-1]
        for part, counts in module.counts.items():
            self.metrics[f"{part}/errors"] = int(counts.sum() - counts.diagonal().sum())
            # JSON has no NaN: a class without samples has no accuracy.
            shares = [None if math.isnan(share) else share for share in class_accuracy(counts)]
            self.metrics[f"{part}/class_accuracy"] = dict(zip(class_names, shares, strict=True))
        self.metrics |= {"seed": module.hparams["seed"], "device": _device_name(module.device), "versions": VERSIONS}
        folder = run_folder(trainer)
        if folder is not None:
            write_json(folder / "metrics.json", self.metrics)

    def finish(self, trainer: pl.Trainer, module: MLPModule) -> None:
        """Print the table of results and log the hyperparameters with them, once all of them are there."""
        if not trainer.is_global_zero:
            return
        self._write(trainer, module)
        print(results_table(self.metrics))
        logger = tensorboard_logger(trainer)
        if logger is None:
            return
        given = {**module.hparams, **trainer.datamodule.hparams}  # type: ignore[attr-defined]
        if "engine" in self.metrics:
            given["engine"] = self.metrics["engine"]
        options = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in given.items()
            if value is not None and not name.startswith("_")
        }
        results = {f"result/{name}": value for name, value in sorted(module.results.items()) if name != "val/step"}
        logger.log_hyperparams(options, results, step=trainer.global_step)
        logger.finalize("success")
        print(f"\nlogs: {printable(str(run_folder(trainer)))}")


def _why_nothing_is_left(trainer: pl.Trainer) -> str:
    step, epoch = trainer.global_step, trainer.current_epoch
    if trainer.max_steps != -1 and step >= trainer.max_steps:
        return f"step {step:,} has been reached, and trainer.max_steps is {trainer.max_steps:,}; raise it to train more"
    if trainer.max_epochs not in (None, -1) and epoch >= trainer.max_epochs:
        return f"epoch {epoch} has been reached, and trainer.max_epochs is {trainer.max_epochs}; raise it to train more"
    return "a limit such as patience or trainer.max_time has been reached; raise it to train more"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
