"""``train``: a model from samples in memory, by the engines and the steps of the command ``fit``."""

import difflib
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from mlp_lightning.data.batches import Batches
from mlp_lightning.data.classes import balanced_weights
from mlp_lightning.data.splitting.splits import holdout
from mlp_lightning.engines.choice import AUTO
from mlp_lightning.epochs import Record, Validation, line_of, run_epochs
from mlp_lightning.errors import UserError
from mlp_lightning.loop import Loop
from mlp_lightning.notebook.history import History
from mlp_lightning.notebook.model import IN_MEMORY, Model, with_content
from mlp_lightning.notebook.samples import Learned, learn
from mlp_lightning.predicting.model import model_of
from mlp_lightning.training.options import make_loss
from mlp_lightning.training.recipes import (
    DEFAULTS,
    averaging_of,
    check_options,
    network_of,
    recipe_of,
    rule_of,
    schedule_of,
)


def train(
    x: Any,
    y: Any,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    validation_size: float | int | None = 0.1,
    patience: int | None = None,
    verbose: bool = False,
    engine: str = AUTO,
    **options: Any,
) -> Model:
    """Train a network on samples in memory; nothing is written.

    Args:
        x: an array or tensor ``(N, D)`` or ``(N, H, W[, 3])``; or the columns of a table, a dict or a pandas frame.
        y: the class of each sample, numbers or texts.
        epochs: how often each sample trains.
        batch_size: samples in a minibatch.
        validation_size: a share of the samples, or their number, that validates after every epoch; None for none.
        patience: ends the training when ``val/loss`` has not improved for so many epochs, and takes the weights of the
            best one; None for never.
        verbose: whether a line is printed after each epoch.
        engine: as ``--trainer.engine``.
        options: those of the model: ``hidden``, ``activation``, ``optimizer``, ``lr``, ``seed``, …

    Raises:
        UserError: an option that is not there or outside its range, samples that cannot be read, or a training that
            diverges.
    """
    chosen = _options(options, epochs=epochs, batch_size=batch_size, patience=patience)
    data = learn(x, y)
    if validation_size is None:
        if patience is not None:
            raise UserError(f"patience: got {patience}, which needs validation_size")
        trains, validates = torch.arange(len(data.y)), torch.arange(0)
    else:
        trains, validates = holdout(len(data.y), validation_size, chosen["seed"])
    train_x, train_y = data.x[trains], data.y[trains]
    weights = chosen["class_weights"]
    if weights == "balanced":
        weights = balanced_weights(train_y.bincount(minlength=len(data.class_names)), data.class_names)
    loss = make_loss(chosen["loss"], "sum", label_smoothing=chosen["label_smoothing"], class_weights=weights)
    sizes = (data.x.shape[1], *chosen["hidden"], len(data.class_names))
    network, steps = network_of(chosen, sizes), -(-len(trains) // batch_size)
    averaging = averaging_of(chosen, epochs * steps)
    average = None if averaging is None else (averaging, network_of(chosen, sizes))
    recipe = recipe_of(chosen, network, loss, rule_of(chosen, network))
    loop = Loop(recipe, chosen["lr"], schedule_of(chosen, steps, epochs * steps), average, engine)
    batches = Batches(train_x, train_y, batch_size, shuffle=True, seed=chosen["seed"])
    minibatch = next(iter(batches))
    validation = _validation(data.x[validates], data.y[validates]) if len(validates) else None
    history, results = History(), Record()
    for results in run_epochs(loop, batches, epochs, validation, patience):
        for name, value in results.items():
            of_steps, values = history.setdefault(name, ([], []))
            of_steps.append(loop.step)
            values.append(value)
        if verbose:
            print(line_of(loop.epoch, results))
    content = _content(loop, data, chosen, weights, history, results)
    return with_content(model_of(content, IN_MEMORY, option="train"), content, minibatch)


def _options(options: dict[str, Any], **counts: int | None) -> dict[str, Any]:
    for name in options:
        if name not in DEFAULTS:
            near = difflib.get_close_matches(name, DEFAULTS, 1)
            raise UserError(f"train: there is no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
    for name, count in counts.items():
        if count is not None and (type(count) is not int or count < 1):
            raise UserError(f"{name}: got {count}, must be a whole number of at least 1")
    chosen = {**DEFAULTS, **options}
    hidden = chosen["hidden"]
    chosen["hidden"] = [hidden] if isinstance(hidden, int) else list(hidden)
    check_options(chosen)
    return chosen


def _validation(x: Tensor, y: Tensor) -> Validation:
    return Validation(x, y, lambda outputs: {"val/accuracy": float((outputs.argmax(1) == y).double().mean())})


def _content(
    loop: Loop,
    data: Learned,
    options: dict[str, Any],
    class_weights: list[float] | None,
    history: History,
    results: Record,
) -> dict[str, Any]:
    """What a checkpoint of this training holds."""
    networks = {"network": loop.network} | ({} if loop.averaging is None else {"averaged_network": loop.averaging[1]})
    weights = {f"{part}.{name}": value for part, each in networks.items() for name, value in each.state_dict().items()}
    return {
        "state_dict": {name: value.clone() for name, value in weights.items()},
        "hyper_parameters": options,
        "sizes": list(loop.network.sizes),
        "norm": loop.network.norm,
        "class_weights": class_weights,
        "history": dict(history),
        "window": {},
        "windows": [{}],
        "skipped_steps": 0,
        "results": {name: value for name, value in results.items() if name.startswith("val/")},
        "counts": {},
        "epoch": loop.epoch - 1,
        "global_step": loop.step,
        "pytorch-lightning_version": version("lightning"),
        "data": {
            "class_names": list(data.class_names),
            "image_shape": list(getattr(data.preprocessing, "image_shape", ())),
            "preprocessing": data.preprocessing.to_dict(),
        },
    }
