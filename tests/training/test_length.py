"""Schedule, averages and deformations of a training count the same length, which is the one that Lightning trains."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mlp_lightning.data.images.deform_options import DeformOptions
from mlp_lightning.training.options import make_averaging

# Of 70 training samples 16 at a time, 5 minibatches make an epoch; per_batch, 6 of 90.
CASES = {
    "epochs": {"max_epochs": 4},
    "steps": {"max_epochs": -1, "max_steps": 20},
    "steps within epochs": {"max_epochs": 15, "max_steps": 20},
    "steps that end within an epoch": {"max_epochs": 15, "max_steps": 19},
    "accumulated": {"max_epochs": 15, "max_steps": 12, "accumulate_grad_batches": 2},
    "accumulated, no epochs": {"max_epochs": -1, "max_steps": 12, "accumulate_grad_batches": 2},
    "accumulated, a ragged end": {"max_epochs": 9, "max_steps": 10, "accumulate_grad_batches": 2},
    "a limit": {"max_epochs": 15, "max_steps": 8, "limit_train_batches": 2},
    "a share": {"max_epochs": -1, "max_steps": 8, "limit_train_batches": 0.4},
    "a share, accumulated": {"max_epochs": 4, "limit_train_batches": 0.6, "accumulate_grad_batches": 2},
    "the same samples": {"max_epochs": 15, "max_steps": 8, "overfit_batches": 2},
}


class Epochs(Callback):
    """Keeps in which epoch each minibatch came, and the steps made before it."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append((trainer.current_epoch, trainer.global_step))


def train(fit, data, trainer, model=None):
    epochs = Epochs()
    return fit(model or {}, {"shuffle": False, **data}, callbacks=[epochs], **trainer), epochs.seen


@pytest.mark.parametrize("validation", ["holdout", "per_batch"])
@pytest.mark.parametrize("trainer", CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore:.*overfit")
def test_the_last_epochs_are_those_that_are_trained_last(fit, dataset, trainer, validation):
    options = DeformOptions(noise=0.1, end_strength=0.0, end_share=0.25)
    run, seen = train(fit, {"deform": options, "validation": validation}, trainer)
    last = max(epoch for epoch, _ in seen)
    clean = {
        epoch
        for (epoch, _), batch in zip(seen, run.start.batches, strict=True)
        if torch.isin(batch.x, dataset.train_x).all()
    }
    assert last == 3
    assert clean == {last}


@pytest.mark.parametrize("trainer", CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore:.*overfit")
def test_schedule_and_average_end_with_the_training(fit, trainer):
    """A cosine ends at its final factor one step after the last, and the mean of the last quarter is of so many."""
    model = {"schedule": "cosine", "averaging": "swa", "swa_start": 0.75, "lr": 0.1}
    run, _ = train(fit, {}, {**trainer, "log_every_n_steps": 1}, model)
    steps = run.trainer.global_step
    assert run.trainer.estimated_stepping_batches == steps
    assert run.module._schedule(steps) == 0
    assert run.module._schedule(steps - 1) > 0
    averaged = [step for step in range(steps) if run.module._averaging(step) < 1]
    assert averaged == list(range(3 * steps // 4 + 1, steps))


@pytest.mark.parametrize(("share", "total", "first"), [(0.29, 100, 29), (0.57, 100, 57), (0.07, 300, 21), (0.5, 7, 3)])
def test_the_mean_begins_where_the_share_says(share, total, first):
    averaging = make_averaging("swa", {"swa_start": share}, total_steps=total)
    assert [averaging(step) for step in (first - 1, first, first + 1, first + 2)] == [1, 1, 1 / 2, 1 / 3]


@pytest.mark.parametrize("name", ["limit_train_batches", "val_check_interval"])
def test_lightning_takes_shares_as_they_are_written(fit, name):
    """0.58 of 50 minibatches are 29, which floats make 28."""
    run, seen = train(fit, {"batch_size": 1, "validation_size": 40}, {"max_epochs": 1, name: 0.58})
    if name == "val_check_interval":
        assert run.trainer.val_check_batch == 29
    else:
        assert len(seen) == 29
