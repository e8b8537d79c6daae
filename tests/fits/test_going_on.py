"""``--ckpt_path`` with the words last, auto and best, and early ends: which file is taken, and what is said."""

import pytest

from mlp_lightning.cli import main as cli
from mlp_lightning.cli import start

SHORT = [
    *("--config", "adam.yaml", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.limit_train_batches", 4, "--trainer.limit_val_batches", 1, "--trainer.limit_test_batches", 1),
    *("--trainer.log_every_n_steps", 2, "--model.hidden", "[8]", "--model.schedule", "constant"),
    *("--model.warmup_epochs", 0, "--model.lr", 0.001),
]
FIT = ["fit", *SHORT, "--test", "never"]
FOLDER = "lightning_logs/adam"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    folder = tmp_path / "mit Leerzeichen, ü und 数"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def half(run_main):
    run_main(*FIT, "--trainer.max_epochs", 1)


@pytest.mark.parametrize("word", ["last", "auto"])
def test_fit_goes_on_from_its_newest_checkpoint(half, run_cli, capsys, word):
    cli = run_cli(*FIT, "--trainer.max_epochs", 2, "--ckpt_path", word, "--model.lr", 0.25)
    lines = capsys.readouterr().out.splitlines()
    assert f"checkpoint: {FOLDER}/version_0/checkpoints/last.ckpt, step 4" in lines
    assert "model.lr: 0.25 from now on, the checkpoint was trained with 0.001" in lines
    assert cli.model.curves.history["optim/lr"] == ([2, 4, 6, 8], [0.001, 0.001, 0.25, 0.25])


def test_a_damaged_newest_checkpoint_is_skipped(half, run_cli, capsys, elsewhere):
    with (elsewhere / FOLDER / "version_0/checkpoints/last.ckpt").open("rb+") as file:
        file.truncate(5000)
    cli = run_cli(*FIT, "--trainer.max_epochs", 2, "--ckpt_path", "auto")
    out = capsys.readouterr().out
    assert f"skipped: {FOLDER}/version_0/checkpoints/last.ckpt is not a readable checkpoint" in out
    assert f"checkpoint: {FOLDER}/version_0/checkpoints/best.ckpt, step 4" in out
    assert cli.trainer.global_step == 8


def test_auto_begins_anew_where_there_is_none(run_cli, capsys):
    cli = run_cli(*FIT, "--trainer.max_epochs", 1, "--ckpt_path", "auto")
    assert f"checkpoint: none in {FOLDER}, so the training begins anew" in capsys.readouterr().out
    assert cli.trainer.global_step == 4


def test_a_training_that_is_complete_keeps_its_results(half, run_cli):
    cli = run_cli("fit", *SHORT, "--trainer.max_epochs", 1, "--ckpt_path", "auto")
    assert cli.report.metrics["steps"] == 4
    assert cli.report.metrics["val/loss"] == cli.model.curves.history["val/loss"][1][-1]
    assert "test/loss" in cli.report.metrics


@pytest.mark.parametrize("word", ["best", "last"])
@pytest.mark.parametrize("config", [SHORT[:2], []], ids=["config", "no config"])
def test_evaluation_takes_the_newest(half, run_main, capsys, word, config):
    run_main("test", *config, *SHORT[2:10], "--trainer.logger", "false", "--ckpt_path", word)
    assert f"checkpoint: {FOLDER}/version_0/checkpoints/{word}.ckpt, step 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*FIT, "--ckpt_path", "last"], f"got last, but {FOLDER} holds no whole checkpoint of a fit"),
        ([*FIT, "--ckpt_path", "best"], "got best, fit takes last, auto, a file or a folder"),
        ([*FIT, "--ckpt_path", "auto", "--trainer.logger", "false"], "got auto, which looks in the log folder: "),
        (["test", "--ckpt_path", "auto"], "got auto, test takes last, best, a file or a folder"),
        (["test", "--ckpt_path", "best"], "got best, but there is no best.ckpt in lightning_logs"),
        (["test", *SHORT[:2], "--ckpt_path", "last"], f"got last, but there is no last.ckpt in {FOLDER}"),
    ],
)
def test_what_cannot_be_ends_in_one_line(run_main, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        run_main(*arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: --ckpt_path: {message}")


def test_a_full_disk_ends_in_one_line(run_main, capsys, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli.Report, "on_fit_start", full)
    with pytest.raises(SystemExit) as ended:
        run_main(*FIT)
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: a file of the run cannot be written: No space left on device; make room")


def test_a_broken_file_that_is_no_full_disk_is_another_line(run_main, monkeypatch, capsys):
    def broken(self, *arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cli.Report, "on_fit_start", broken)
    with pytest.raises(SystemExit) as ended:
        run_main(*FIT)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: a file: Input/output error"


def test_ctrl_c_before_there_is_anything_to_save(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "answer", interrupted)
    with pytest.raises(SystemExit) as ended:
        start.main(["predict"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped\n"
