"""Which weights a training is judged by: ``fit`` tests them, its table names them, a run's folder stands for them."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.memory import out_of_memory
from mlp_lightning.training.evaluation import Weights
from mlp_lightning.training.module import MLPModule

# Of a checkpoint's content.
NEEDED = ("state_dict", "epoch", "global_step", "results", "counts")


class JudgedWeights(pl.Callback):
    """At the end of a training, loads the weights it is judged by into the module, with their validation results.

    They are those of ``best.ckpt`` where it was written, else the last ones. One process reads the file and sends it to
    the others, which may run on machines without it.

    Args:
        choice: the option ``--test``; ``never`` chooses as null does.
        best: whose file is the best; None where nothing validates or no checkpoints are kept.
        last: whose file is the last; None where no checkpoints are kept.

    Attributes:
        failure: why ``best.ckpt`` cannot be read although it was written, else None.
    """

    def __init__(
        self,
        choice: Literal["best", "last", "never"] | None,
        best: ModelCheckpoint | None,
        last: ModelCheckpoint | None,
    ) -> None:
        self._choice, self._best, self._last = choice, best, last
        self.failure: str | None = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose, and load the best weights unless they are the last."""
        assert isinstance(pl_module, MLPModule)
        pl_module.judged = Weights(_file(self._last), trainer.current_epoch, trainer.global_step)
        if self._choice == "last" or self._best is None or not self._best.best_model_path:
            return
        path = Path(self._best.best_model_path)
        content, self.failure = trainer.strategy.broadcast(_read(path) if trainer.is_global_zero else (None, None))
        if content is None:
            return
        pl_module.judged = Weights.of_checkpoint(path, content)
        if pl_module.judged.step != trainer.global_step:
            pl_module.load_state_dict(content["state_dict"])
            pl_module.take_validation(content)


def _file(callback: ModelCheckpoint | None) -> str | None:
    return None if callback is None or not callback.best_model_path else Path(callback.best_model_path).name


def _read(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """What is needed of a file, without the optimizer's state; or why it cannot be had."""
    try:
        content = read_checkpoint(path)
    except UserError as error:
        return None, str(error).removeprefix("--ckpt_path: ")
    except (MemoryError, RuntimeError) as error:
        line = out_of_memory(error)
        if line is None:
            raise
        return None, line
    return {name: content[name] for name in NEEDED if name in content}, None
