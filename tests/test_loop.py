"""The loop without Lightning against a training by Lightning's Trainer, to the bit."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from mlp_lightning.data import Batches, holdout
from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.loop import Loop
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.options import make_loss
from mlp_lightning.training.recipes import averaging_of, network_of, recipe_of, rule_of, schedule_of

EPOCHS = 3
RECIPES = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "lr": 0.1, "schedule": "step", "step_epochs": 1.0},
    "momentum-cosine": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "schedule": "cosine", "warmup_epochs": 0.5},
    "one-cycle": {"schedule": "one_cycle", "optimizer": "adamw", "weight_decay": 0.1},
    "gelu-dropout": {"activation": "gelu", "dropout": 0.3, "input_dropout": 0.1},
    "ema": {"averaging": "ema", "ema_decay": 0.9},
    "swa-batch-norm": {"averaging": "swa", "norm": "batch"},
    "layer-norm-muon": {"norm": "layer", "optimizer": "muon"},
    "smoothing-weights": {"label_smoothing": 0.1, "class_weights": [1.0, 2.0, 0.5, 1.0]},
    "mse-clipped": {"loss": "mse", "clip_norm": 0.1, "clip_value": 0.01},
    "adversary": {"vat": 1.0},
    "constraints": {"l1": 0.001, "max_norm": 1.0, "reduction": "sum", "lr": 0.0001},
    "skips": {"nonfinite": "skip"},
}


def loop_of(options, sizes, n, batch_size):
    network = network_of(options, sizes)
    loss = make_loss(
        options["loss"], "sum", label_smoothing=options["label_smoothing"], class_weights=options["class_weights"]
    )
    steps = -(-n // batch_size)
    averaging = averaging_of(options, EPOCHS * steps)
    average = None if averaging is None else (averaging, network_of(options, sizes))
    recipe = recipe_of(options, network, loss, rule_of(options, network))
    return Loop(recipe, options["lr"], schedule_of(options, steps, EPOCHS * steps), average)


@pytest.mark.parametrize("model", RECIPES.values(), ids=RECIPES)
def test_weights_and_losses_are_those_of_lightnings_trainer_to_the_bit(fit, dataset, model):
    run = fit({"seed": 3, **model}, {"seed": 5, "batch_size": 16}, max_epochs=EPOCHS, log_every_n_steps=10**6)
    trains, validates = holdout(len(dataset.train_y), 20, 5)
    x, y = dataset.train_x[trains], dataset.train_y[trains]
    loop = loop_of(run.module.hparams, run.module.network.sizes, len(y), 16)
    batches = Batches(x, y, 16, shuffle=True, seed=5)
    for _ in range(EPOCHS):
        loop.run_epoch(batches)
    assert loop.step == run.trainer.global_step == EPOCHS * 5
    for ours, theirs in (
        (loop.recipe.network, run.module.network),
        (loop.evaluated_network, run.module.evaluated_network),
    ):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
    outputs, loss = loop.evaluate(dataset.train_x[validates], dataset.train_y[validates])
    assert loss == pytest.approx(run.module.results["val/loss"], rel=1e-6)
    assert (outputs.argmax(1) == dataset.train_y[validates]).double().mean() == run.module.results["val/accuracy"]


def test_the_mean_loss_of_an_epoch_is_that_of_its_samples_before_each_step(dataset):
    options = MLPModule(hidden=[7, 5], lr=0.0).hparams
    loop = loop_of(options, (12, 7, 5, 4), len(dataset.train_y), 7)
    mean = loop.run_epoch(Batches(dataset.train_x, dataset.train_y, 7, shuffle=True))
    logits, _ = loop.recipe.network(dataset.train_x)
    assert mean == pytest.approx(float(F.cross_entropy(logits, dataset.train_y)), rel=1e-6)


def test_a_step_that_is_not_finite_ends_the_training(dataset):
    loop = loop_of(MLPModule(hidden=[7, 5]).hparams, (12, 7, 5, 4), len(dataset.train_y), 16)
    x = dataset.train_x.clone()
    x[40, 3] = torch.inf
    with pytest.raises(NotFinite, match="step 3 is not finite"):
        loop.run_epoch(Batches(x, dataset.train_y, 16))


def test_it_imports_neither_lightning_nor_what_draws():
    code = (
        "import sys, mlp_lightning.loop, mlp_lightning.training.recipes\n"
        "print([name for name in ('lightning', 'tensorboard', 'matplotlib', 'torchmetrics') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
