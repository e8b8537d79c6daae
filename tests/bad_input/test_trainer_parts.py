"""Callbacks, loggers and plugins on the command line: one without a list, wrong options, what is not installed."""

import importlib.util

import pytest
import yaml

SMALL = (
    *("--model.hidden", "[4]", "--data.batch_size", "16", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"),
    *("--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"),
    *("--trainer.log_every_n_steps", "1", "--test", "never"),
)
CALLBACKS = "--trainer.callbacks"
MISSING = [
    (option, kind, package)
    for option, kind, package in (
        ("--trainer.logger", "WandbLogger", "wandb"),
        ("--trainer.logger", "MLFlowLogger", "mlflow"),
        ("--trainer.logger", "CometLogger", "comet"),
        (CALLBACKS, "RichProgressBar", "rich"),
        (CALLBACKS, "DeviceStatsMonitor", "psutil"),
    )
    if importlib.util.find_spec(package) is None
]


def error_of(run_main, capsys, tmp_path, *options):
    with pytest.raises(SystemExit) as caught:
        run_main("fit", *SMALL, "--trainer.default_root_dir", tmp_path, *options)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train:UserWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [f"{CALLBACKS}+=Timer", f"{CALLBACKS}.duration=1h"],
            "error: trainer: `Timer(duration='1h')` is not a valid dura",
        ),
        (
            [CALLBACKS, "Timer", f"{CALLBACKS}.interval", "minute"],
            "error: trainer: Unsupported parameter value `Timer(int",
        ),
        (
            [CALLBACKS, "EarlyStopping", f"{CALLBACKS}.monitor", "val_loss"],
            "error: trainer.callbacks: got EarlyStopping with monitor val_loss, did you mean val/loss?",
        ),
        (
            [f"{CALLBACKS}+=ModelCheckpoint", f"{CALLBACKS}.monitor=val_acc"],
            "error: trainer.callbacks: got ModelCheckpoint with monitor val_acc, did you mean val/accuracy?",
        ),
        ([CALLBACKS, "LearningRateFinder"], "error: trainer.callbacks: got LearningRateFinder, "),
        ([CALLBACKS, "BatchSizeFinder"], "error: trainer.callbacks: got BatchSizeFinder, "),
        (["--trainer.precision", "16-mixed"], "error: trainer.precision: got 16-mixed, which needs a GPU"),
        (["--trainer.overfit_batches", "0.00001"], "error: trainer.overfit_batches: got 1e-05, less than one of the "),
    ],
)
def test_one_line(run_main, capsys, tmp_path, options, message):
    line = error_of(run_main, capsys, tmp_path, *options)
    assert line.startswith(message)


@pytest.mark.parametrize(("option", "kind", "package"), MISSING, ids=lambda value: str(value))
def test_what_is_not_installed_is_told(run_main, capsys, tmp_path, option, kind, package):
    line = error_of(run_main, capsys, tmp_path, option, kind)
    assert line.startswith("error: trainer: ")
    assert package in line.lower()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"callbacks": {"class_path": "Timer"}}, "Timer"),
        ({"callbacks": [{"class_path": "Timer", "init_args": {"duration": "00:00:10:00"}}]}, "Timer"),
        ({"callbacks": {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}}, "EarlyStopping"),
        ({"callbacks": {"class_path": "TQDMProgressBar"}, "enable_progress_bar": True}, "TQDMProgressBar"),
        ({"plugins": {"class_path": "LightningEnvironment"}}, "LightningEnvironment"),
        ({"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "."}}}, "CSVLogger"),
    ],
)
def test_one_need_not_stand_in_a_list(run_main, tmp_path, monkeypatch, option, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"trainer": option}))
    run_main("fit", "--config", tmp_path / "one.yaml", *SMALL, "--trainer.default_root_dir", tmp_path)
    (config,) = tmp_path.rglob("config.yaml")
    assert expected in config.read_text()
