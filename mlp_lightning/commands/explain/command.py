"""The ``explain`` command: one minibatch through forward, loss, backward and update, each operation as a record."""

import copy
from pathlib import Path

import lightning.pytorch as pl
from torch import Tensor

from mlp_lightning.commands.explain.adversary import adversary_steps
from mlp_lightning.commands.explain.html import render_html, write_page
from mlp_lightning.commands.explain.layers import backward_steps, forward_steps
from mlp_lightning.commands.explain.loss import afterwards_steps, loss_steps
from mlp_lightning.commands.explain.step import Explanation, Step, number
from mlp_lightning.commands.explain.text import render_text
from mlp_lightning.commands.explain.update import update_steps
from mlp_lightning.data.batches import Batch, Batches
from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.nn.draws import Draws
from mlp_lightning.nn.training_pass import TrainingPass
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.setup import set_up


def explain(
    trainer: pl.Trainer,
    module: MLPModule,
    datamodule: DataModule,
    *,
    sample: int = 0,
    html: str | None = None,
    ckpt_path: str | None = None,
) -> None:
    """Print the walk of one minibatch of the first epoch, and write it as a page.

    Args:
        trainer: gives device, precision and the length of the training, which the schedule needs; it is not run.
        module: the network and how it learns.
        datamodule: the data.
        sample: which sample is shown in detail, counted in the order in which the first epoch trains; its minibatch is
            the one that is walked.
        html: the page's file, replaced if it exists; None for no page.
        ckpt_path: a checkpoint to take the weights from; the optimizer starts afresh.

    Raises:
        UserError: a sample that is not there, a page that cannot be written, a checkpoint that does not fit, or more
            than one device.
    """
    setup = set_up(trainer, module, datamodule, ckpt_path)
    index, batch, row = find_minibatch(setup.batches, sample)
    x = trainer.precision_plugin.convert_input(batch.x)
    data = datamodule.data
    factor = module.make_schedule(setup.steps_per_epoch, setup.total_steps)(0)
    y = batch.targets(data.n_classes, x.dtype)
    # Only grey pictures are drawn as such: others are shown as the numbers that they are.
    image_shape = (data.image_shape[0], data.image_shape[1]) if len(data.image_shape) == 2 else None
    class_names = data.class_names
    steps = walk(module, x, y, row, step=index, lr_factor=factor, image_shape=image_shape, class_names=class_names)

    last = len(setup.batches) - 1
    sizes = "-".join(map(str, module.network.sizes))
    facts = [
        ("network", f"{sizes}, {module.hparams['activation']}, {module.network.flat.dtype}".replace("torch.", "")),
        ("weights", f"from {ckpt_path}" if ckpt_path else f"{module.hparams['init']}, seed {module.hparams['seed']}"),
        ("loss", f"{module.hparams['loss']}, {module.hparams['reduction']} over the minibatch"),
        ("update", f"{module.hparams['optimizer']}, first step, fresh state"),
        ("minibatch", f"{index} of 0 … {last} in the first epoch of {datamodule.dataset}; B = {len(x)}"),
        ("sample", f"{sample}: row {row} of its minibatch, class {data.class_names[int(batch.y[row])]}"),
    ]
    options = module.hparams
    if options["norm"] != "none":
        facts.append(("norm", f"{options['norm']} norm before every activation"))
    if options["dropout"] or options["input_dropout"]:
        p, input_p = number(options["dropout"]), number(options["input_dropout"])
        facts.append(("dropout", f"of activations {p}, of inputs {input_p}; the masks of step {index}"))
    if datamodule.deform.is_on:
        facts.append(("deformed by", str(datamodule.deform)))
    if batch.partner_y is not None:
        partner = data.class_names[int(batch.partner_y[row])]
        facts.append(("mixup", f"λ = {number(batch.share)}, the rest is a sample of class {partner}"))
    explanation = Explanation("One training step, explained", facts, steps, totals(steps, module.network))
    print(render_text(explanation))
    if html is not None:
        write_page(render_html(explanation), Path(html))
        print(f"\npage: {html}")


def walk(
    module: MLPModule,
    x: Tensor,
    y: Tensor,
    sample: int = 0,
    *,
    step: int = 0,
    lr_factor: float = 1.0,
    image_shape: tuple[int, int] | None = None,
    class_names: tuple[str, ...] = (),
) -> list[Step]:
    """The first training step on one minibatch, operation by operation, with the numbers that training would use.

    Dropout and batch norm's statistics are those of training, also afterwards. The optimizer's state is fresh.
    ``module`` keeps its weights: a copy of its network takes the step.

    Args:
        module: with its network built.
        x: the minibatch ``(B, D)``.
        y: its targets ``(B,)``, or their probabilities ``(B, K)``.
        sample: the row of ``x`` to show in detail, in 0 … B − 1.
        step: which step's entries dropout drops, counted from 0.
        lr_factor: what the schedule multiplies the learning rate by.
        image_shape: (height, width) if the D entries of a sample are an image.
        class_names: K names; empty for 0 … K − 1.

    Raises:
        UserError: ``sample`` is outside its range.
    """
    if not 0 <= sample < len(x):
        raise UserError(f"--sample: got {sample}, must be from 0 to {len(x) - 1}")
    network, options = copy.deepcopy(module.network), module.hparams
    classes = class_names or tuple(str(k) for k in range(network.sizes[-1]))
    dropout = module.make_dropout()
    training = TrainingPass(len(x), dropout.masks(step, len(x)) if dropout is not None else ())
    logits, cache = network(x, training)
    losses, dlogits = loss_steps(module.loss, options["reduction"], len(cache), logits, y, sample, classes)
    deltas: list[Tensor] = []
    norm_deltas: list[Tensor] = []
    network.backward(dlogits, cache, deltas=deltas, norm_deltas=norm_deltas)
    optimizer = module.make_optimizer(network)
    backward = backward_steps(network, cache, deltas[::-1], norm_deltas[::-1], sample)
    adversary, adversarial = module.make_adversary(), []
    if adversary is not None:
        draws = Draws(options["seed"], "vat", x.device)
        draws.start(step, len(x))
        adversarial = adversary_steps(
            network, adversary, draws, x, logits, training, options["reduction"], sample, image_shape, classes
        )
    return [
        *forward_steps(network, x, cache, sample, image_shape, classes),
        *losses,
        *backward,
        *adversarial,
        # From here on the network has taken the step.
        *update_steps(network, optimizer, options, lr_factor, image_shape),
        *afterwards_steps(module.loss, options["reduction"], logits, network(x, training)[0], y, sample, classes),
    ]


def find_minibatch(batches: Batches, sample: int) -> tuple[int, Batch, int]:
    """The minibatch that trains sample ``sample`` of the coming epoch: its index, itself and the sample's row.

    Raises:
        UserError: there is no such sample.
    """
    first = 0
    for index, batch in enumerate(batches):
        if 0 <= sample - first < len(batch.y):
            return index, batch, sample - first
        first += len(batch.y)
    raise UserError(f"--sample: got {sample}, must be from 0 to {first - 1}")


def totals(steps: list[Step], network: MLP) -> list[tuple[str, str]]:
    """Multiply-adds and bytes of each phase and of the whole step, and the number of parameters."""
    rows = []
    for phase in ("forward", "loss", "backward", "adversary", "update"):
        chosen = [step for step in steps if step.phase == phase]
        if chosen:
            rows.append((phase, _cost(chosen)))
    weights, biases, every = network.weight_numel, sum(network.sizes[1:]), network.flat.numel()
    rest = every - weights - biases
    return [
        *rows,
        ("the step", _cost(steps)),
        ("parameters", f"{every:,}: {weights:,} weights, {biases:,} biases" + (f", {rest:,} γ and β" if rest else "")),
    ]


def _cost(steps: list[Step]) -> str:
    return f"{sum(step.multiply_adds for step in steps):,} multiply-adds, {sum(step.bytes for step in steps):,} bytes"
