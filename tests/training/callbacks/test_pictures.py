"""Which validations of a training are drawn."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FIT = [
    *("fit", "--config", "relu.yaml", "--test", "never", "--model.hidden", "[4]", "--data.batch_size", 16),
    *("--trainer.accelerator", "cpu", "--trainer.limit_train_batches", 2, "--trainer.log_every_n_steps", 2),
    *("--trainer.limit_val_batches", 1, "--trainer.enable_progress_bar", "false"),
]


def drawn(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return [event.step for event in events.Images("confusion/val")]


@pytest.fixture
def fit(run_main, tmp_path):
    def fit(epochs, *options):
        run_main(*FIT, "--trainer.max_epochs", epochs, "--trainer.default_root_dir", tmp_path, *options)
        return next(tmp_path.rglob("version_0"))

    return fit


def test_the_first_ones_some_and_the_last(fit):
    assert drawn(fit(7)) == [2, 4, 8, 14]


def test_a_last_one_that_was_drawn_is_not_drawn_again(fit):
    assert drawn(fit(4)) == [2, 4, 8]


def test_a_training_that_goes_on_goes_on_counting(fit):
    folder = fit(3)
    fit(6, "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    steps = drawn(folder)
    assert 8 in steps
    assert 10 not in steps
    assert steps[-1] == 12


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"digits": 1, "deformed": 1}),
        (("--model.lr", 0.002), {"digits": 1, "deformed": 1}),
        (("--data.deform.rotation", 9), {"digits": 1, "deformed": 2}),
    ],
    ids=["in its folder", "in a folder of its own", "other pictures"],
)
def test_the_pictures_of_the_data_are_shown_once(fit, tmp_path, options, expected):
    folder = fit(1, "--data.deform.rotation", 5)
    last = folder / "checkpoints" / "last.ckpt"
    fit(2, "--data.deform.rotation", 5, *options, "--ckpt_path", last)
    newest = folder.with_name("version_1") if options else folder
    events = EventAccumulator(str(newest), size_guidance={"images": 0})
    events.Reload()
    assert {tag: len(events.Images(tag)) for tag in expected} == expected
    assert {f"{tag}.png" for tag in expected} <= {path.name for path in newest.iterdir()}


def test_a_training_from_a_file_of_elsewhere_shows_its_own(fit, tmp_path):
    last = fit(1) / "checkpoints" / "last.ckpt"
    elsewhere = tmp_path / "mine.ckpt"
    last.rename(elsewhere)
    fit(2, "--ckpt_path", elsewhere)
    events = EventAccumulator(str(last.parents[1].with_name("version_1")), size_guidance={"images": 0})
    events.Reload()
    assert len(events.Images("digits")) == 1
