"""A model with what is known of its training: it predicts, shows its curves, proves, explains, exports and saves."""

import contextlib
import html
import io
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mlp_lightning.data.batches import Batch
from mlp_lightning.errors import UserError
from mlp_lightning.files.checkpoint_file import find_checkpoint, read_checkpoint
from mlp_lightning.files.write_checkpoint import write_checkpoint
from mlp_lightning.notebook.history import History
from mlp_lightning.notebook.samples import read
from mlp_lightning.predicting import model as predicting
from mlp_lightning.predicting.inputs import Inputs
from mlp_lightning.predicting.prediction import Prediction, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mlp_lightning.notebook.reports import Report, Walk
    from mlp_lightning.training.module import MLPModule

# Samples of a step that is proven or explained.
STEP_SAMPLES = 64
# How a model without a file is called.
IN_MEMORY = Path("the model")


@dataclass(frozen=True, eq=False)
class Model(predicting.Model):
    """A trained network with the content of its checkpoint.

    Args:
        content: of the checkpoint, as ``save`` writes it.
        minibatch: the first of the training, for ``check`` and ``explain``; None where a file was loaded.
    """

    content: Mapping[str, Any] = field(repr=False)
    minibatch: Batch | None = field(default=None, repr=False)

    @property
    def history(self) -> History:
        """The curves of the training."""
        return History(self.content["history"])

    @property
    def options(self) -> dict[str, Any]:
        """The options of the model that was trained."""
        # The command line leaves a name of its own.
        return {name: value for name, value in self.content["hyper_parameters"].items() if not name.startswith("_")}

    def plot(self) -> "Figure":
        """The curves as a figure."""
        return self.history.plot(str(self.path))

    def predict(self, inputs: Inputs, *, top: int = 3) -> list[Prediction]:
        """The class of each sample, and how sure that is, as ``mlp_lightning.predict``."""
        return predict(self, inputs, top=top)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a checkpoint, which ``load`` and every command reads; returns its path."""
        target = Path(path).expanduser()
        write_checkpoint(self.content, target)
        return target

    def export(self, path: str | os.PathLike[str], format: str = "onnx", *, input: str | None = None) -> Path:
        """Write a file that other programs run, proven against this network; returns its path.

        Args:
            path: the file.
            format: ``torch``, ``torch_export``, ``onnx`` or ``safetensors``.
            input: how a whole program is given samples, as ``--input`` of the command.

        Raises:
            UserError: another format, a package that is missing, or a file that cannot be written.
        """
        from mlp_lightning.commands.export.formats import FORMATS, require_packages
        from mlp_lightning.commands.export.proof import MismatchError, write_proven

        if format not in FORMATS:
            raise UserError(f"format: got {format}, must be one of {', '.join(FORMATS)}")
        require_packages(format, FORMATS[format])
        output = Path(path).expanduser()
        try:
            write_proven(self, FORMATS[format], input, output)  # type: ignore[arg-type]
        except MismatchError as error:
            raise UserError(f"{output} was not written: {error}") from error
        return output

    def check(self, x: Any = None, y: Any = None) -> "Report":
        """Prove gradients and updates at these weights against torch's, on samples or the training's first minibatch.

        Args:
            x: samples as ``train`` takes them; None for the minibatch.
            y: their labels.
        """
        from mlp_lightning.commands.check.command import check
        from mlp_lightning.notebook.reports import Report

        batch, text = self._batch(x, y), io.StringIO()
        dtype, epochs = self.network.flat.dtype, max(1, self.content.get("epoch", 0) + 1)
        steps = max(1, self.content["global_step"])
        with contextlib.redirect_stdout(text), warnings.catch_warnings():
            # Lightning's, of the small trainings that are compared.
            warnings.simplefilter("ignore")
            passed = check(
                self._module(),
                [batch],
                precision="64-true" if dtype == torch.float64 else "32-true",
                steps_per_epoch=-(-steps // epochs),
                total_steps=steps,
            )
        return Report(passed, text.getvalue())

    def explain(self, x: Any = None, y: Any = None, *, sample: int = 0) -> "Walk":
        """Walk a minibatch through forward, loss, backward and update, with formulas and numbers.

        Args:
            x: samples as ``train`` takes them; None for the training's first minibatch.
            y: their labels.
            sample: the one that is shown in detail.
        """
        from mlp_lightning.commands.explain.command import totals, walk
        from mlp_lightning.commands.explain.step import Explanation
        from mlp_lightning.notebook.reports import Walk

        batch, module = self._batch(x, y), self._module()
        shape = (self.image_shape[0], self.image_shape[1]) if len(self.image_shape) == 2 else None
        steps = walk(
            module,
            batch.x.to(self.network.flat),
            batch.y,
            sample,
            image_shape=shape,
            class_names=self.class_names,
        )
        facts = [*self._facts(), ("minibatch", f"B = {len(batch.x)}"), ("sample", f"row {sample} of its minibatch")]
        return Walk(Explanation("One training step, explained", facts, steps, totals(steps, module.network)))

    def _batch(self, x: Any, y: Any) -> Batch:
        if x is not None and y is not None:
            rows, classes = (part[:STEP_SAMPLES] for part in read(self, x, y))
            return Batch(rows, classes, rows[:0], classes[:0], len(rows))
        if x is not None or y is not None or self.minibatch is None:
            raise UserError("x and y: got none or one of them, but a model from a file keeps no samples; give both")
        return self.minibatch

    def _module(self) -> "MLPModule":
        """What Lightning would train, with this network's weights."""
        from mlp_lightning.training.module import MLPModule

        module = MLPModule(**self.options)
        module.on_load_checkpoint(dict(self.content))
        module.train_from(self.network)
        return module

    def _facts(self) -> list[tuple[str, str]]:
        options = self.options
        return [
            ("network", f"{'-'.join(map(str, self.network.sizes))}, {self.network.activation}"),
            ("parameters", f"{self.network.flat.numel():,}"),
            ("classes", ", ".join(self.class_names)),
            ("trained by", f"{options['optimizer']}, lr {options['lr']}, {self.content['global_step']:,} steps"),
            *((name, f"{value:.4g}") for name, value in self.content.get("results", {}).items()),
        ]

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{name}</td><td>{html.escape(text)}</td></tr>" for name, text in self._facts())
        return f"<table>{rows}</table>{self.history._repr_html_()}"


def load(path: str | os.PathLike[str], *, option: str = "load") -> Model:
    """The model in a checkpoint, as ``predicting.model.load`` understands paths; raises UserError as it does."""
    file = find_checkpoint(path, option=option)
    content = read_checkpoint(file, option=option)
    return with_content(predicting.model_of(content, file, option=option), content)


def with_content(model: predicting.Model, content: Mapping[str, Any], minibatch: Batch | None = None) -> Model:
    """A model with what is known of its training."""
    return Model(model.network, model.class_names, model.preprocessing, model.centred, model.path, content, minibatch)
