from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.callbacks.report import Report
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks


def test_a_training_that_goes_on_counts_on_its_time(fit):
    first = Report()
    trainer = fit({}, {}, max_epochs=1, enable_checkpointing=True, callbacks=[first, *checkpoint_callbacks()]).trainer
    path = trainer.checkpoint_callbacks[0].best_model_path or trainer.checkpoint_callbacks[0].last_model_path
    saved = read_checkpoint(path)["callbacks"]["Report"]
    assert 0 < saved["train_seconds"] <= saved["seconds"] <= first.metrics["seconds"] + 0.001

    later = Report()
    later.load_state_dict({"seconds": 100.0, "train_seconds": 90.0})
    module = fit({}, {}, max_epochs=1, callbacks=[later]).module
    metrics = later.metrics
    assert metrics["seconds"] > 100
    assert 90 < metrics["train_seconds"] < metrics["seconds"] - 9
    own = metrics["train_seconds"] - 90
    assert abs(metrics["images_per_second"] * own / module.samples_seen - 1) < 0.01 + 0.001 / own
