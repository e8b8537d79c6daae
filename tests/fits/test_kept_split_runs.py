"""fit, test, validate and fit --ckpt_path on a table that changes in between, by command lines and from Python."""

import json

import lightning.pytorch as pl
import pytest
import torch

from mlp_lightning.data.module import DataModule
from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.quiet import quiet_lightning

FIT = [
    *("--data.dataset", "csv", "--data.label", "y", "--data.batch_size", "16", "--model.hidden", "[4]"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
]


def rows(numbers):
    return [f"{k},{(k * k) % 11},{'hot' if k % 3 else 'cold'}" for k in numbers]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "t.csv", rows(range(100)))


def write(path, lines):
    path.write_text("\n".join(["a,b,y", *lines]) + "\n")
    return path


def metrics(folder, name):
    return json.loads((folder / "metrics.json").read_text())[name]


def newest(tmp_path):
    return max(tmp_path.rglob("version_*"), key=lambda path: int(path.name.split("_")[1]))


def test_a_table_that_grows_is_tested_on_the_same_rows(tmp_path, table, run_main, capsys):
    run_main("fit", *FIT, "--data.root", table, "--trainer.max_epochs", 2)
    first = newest(tmp_path)
    checkpoint = first / "checkpoints" / "last.ckpt"
    grown = [*rows(range(200, 240)), *rows(range(99, -1, -1))]
    write(table, grown)
    capsys.readouterr()
    for command, name in (("test", "test/loss"), ("validate", "val/loss")):
        run_main(command, *FIT[8:12], "--ckpt_path", first / "checkpoints" / "best.ckpt")
        assert metrics(newest(tmp_path), name) == metrics(first, name)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
        assert "40 samples are new and" in line
    before = read_checkpoint(checkpoint)["data"]["rows"]
    resume = ["fit", *FIT, "--data.root", table, "--trainer.max_epochs", 3, "--ckpt_path", checkpoint]
    run_main(*resume, "--seed_everything", 5, "--data.test_size", 0.5, "--data.validation_size", 0.3)
    out = capsys.readouterr().out
    assert "seed_everything: stays 0, not 5: the checkpoint knows what validates" in out
    assert "data.test_size: stays 0.2, not 0.5: the checkpoint knows what tests" in out
    assert "data.validation_size: stays null, not 0.3" in out
    assert "from now on" not in out
    after = read_checkpoint(checkpoint)["data"]["rows"]
    n = len(before["keys"])
    assert torch.equal(after["keys"][:n], before["keys"])
    assert torch.equal(after["parts"][:n], before["parts"])
    assert after["parts"][n:].tolist() == [0] * 40


def test_a_table_in_another_order_is_resumed_to_the_same_end(tmp_path, table, run_main, capsys):
    run_main("fit", *FIT, "--data.root", table, "--trainer.max_epochs", 3, "--test", "never")
    straight = read_checkpoint(newest(tmp_path) / "checkpoints" / "last.ckpt")
    run_main("fit", *FIT, "--data.root", table, "--trainer.max_epochs", 2, "--test", "never")
    half = newest(tmp_path) / "checkpoints" / "last.ckpt"
    write(table, rows(sorted(range(100), key=lambda k: k * 37 % 101)))
    run_main("fit", *FIT, "--data.root", table, "--trainer.max_epochs", 3, "--test", "never", "--ckpt_path", half)
    resumed = read_checkpoint(newest(tmp_path) / "checkpoints" / "last.ckpt")
    torch.testing.assert_close(resumed["state_dict"], straight["state_dict"], rtol=0, atol=0)
    assert resumed["history"]["val/loss"] == straight["history"]["val/loss"]
    assert "the samples stand in another order and are taken in the old one" in capsys.readouterr().err


def test_from_python_too(tmp_path, table, capsys):
    quiet_lightning()

    def trainer(epochs):
        return pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1,
        )  # fmt: skip

    def data():
        return DataModule(dataset="csv", root=str(table), label="y", batch_size=16)

    first = trainer(1)
    first.fit(MLPModule(hidden=[4]), data())
    first.save_checkpoint(tmp_path / "one.ckpt")
    kept = first.datamodule.description()
    write(table, [*rows(range(200, 240)), *rows(range(100))])
    capsys.readouterr()
    again = data()
    trainer(2).fit(MLPModule(hidden=[4]), again, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert "40 samples are new and train from now on" in capsys.readouterr().err
    assert again.description()["preprocessing"] == kept["preprocessing"]
    n = len(kept["rows"]["keys"])
    assert torch.equal(again.description()["rows"]["keys"][:n], kept["rows"]["keys"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.validation_size", "2000"], "data.validation_size: stays null, not 2000"),
        (["--seed_everything", "3"], "seed_everything: stays 0, not 3: the checkpoint knows what validates"),
        (
            ["--data.validation", "per_batch", "--data.shuffle", "false"],
            "got per_batch, must be holdout",
        ),
    ],
)
def test_a_packaged_set_is_not_split_anew(tmp_path, monkeypatch, run_main, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    short = [
        *("fit", *FIT[6:], "--trainer.limit_train_batches", 2, "--trainer.limit_val_batches", 1, "--test", "never"),
        *("--trainer.max_epochs",),
    ]
    run_main(*short, 1)
    checkpoint = newest(tmp_path) / "checkpoints" / "last.ckpt"
    assert "rows" not in read_checkpoint(checkpoint)["data"]
    if "got" in words:
        with pytest.raises(SystemExit):
            run_main(*short, 2, "--ckpt_path", checkpoint, *options)
    else:
        run_main(*short, 2, "--ckpt_path", checkpoint, *options)
        stored = read_checkpoint(newest(tmp_path) / "checkpoints" / "last.ckpt")["datamodule_hyper_parameters"]
        assert (stored["validation_size"], stored["seed"]) == (None, 0)
    captured = capsys.readouterr()
    assert words in captured.out + captured.err
