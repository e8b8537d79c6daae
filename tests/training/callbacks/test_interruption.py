"""Signals at chosen steps: what is left goes on to the same end, to the last bit."""

import os
import shlex
import signal
from pathlib import Path

import numpy
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mlp_lightning.files.checkpoint_file import read_checkpoint
from mlp_lightning.training.callbacks.early_stopping import Patience
from mlp_lightning.training.callbacks.interruption import Interruption, Stopped, stopping_signals
from mlp_lightning.training.callbacks.pictures import Pictures
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.runs.checkpoint import checkpoint_callbacks

INT, TERM = signal.SIGINT, signal.SIGTERM
MODEL = {"lr": 0.01, "optimizer": "adam", "dropout": 0.2, "averaging": "ema", "ema_decay": 0.8}


@pytest.fixture
def signal_at(monkeypatch):
    """Sends this process the signals, one after another, within the step given."""

    def send(step, *signals):
        hand_step = MLPModule.hand_step

        def interrupted(self, batch, number, **options):
            hand_step(self, batch, number, **options)
            if number == step:
                for which in signals:
                    os.kill(os.getpid(), which)

        monkeypatch.setattr(MLPModule, "hand_step", interrupted)
        return lambda: monkeypatch.setattr(MLPModule, "hand_step", hand_step)

    return send


@pytest.fixture
def fit_interruptibly(make_parts):
    """A training of 4 epochs of 5 steps; it is returned with what stopped it, if anything did."""

    def run(ckpt_path=None, *, callbacks=(), **trainer):
        best, last = checkpoint_callbacks()
        settings = {"log_every_n_steps": 4, "max_epochs": 4, "enable_checkpointing": True, **trainer}
        parts = make_parts(MODEL, callbacks=[*callbacks, best, last], **settings)
        parts.trainer.callbacks.append(Interruption(last))
        stopped = None
        try:
            with stopping_signals():
                parts.trainer.fit(parts.module, parts.data, ckpt_path=ckpt_path, weights_only=True)
        except Stopped as caught:
            stopped = caught
        return parts, stopped

    return run


def assert_same(resumed, straight):
    torch.testing.assert_close(resumed.module.state_dict(), straight.module.state_dict(), rtol=0, atol=0)
    states = [run.trainer.optimizers[0].state_dict()["state"] for run in (resumed, straight)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert resumed.module.curves.history == straight.module.curves.history
    assert resumed.module.results == straight.module.results
    assert resumed.trainer.global_step == straight.trainer.global_step == 20


@pytest.mark.parametrize("interval", [1.0, 1, 2], ids=["an epoch", "a step", "2 steps"])
@pytest.mark.parametrize("group", [1, 50])
@pytest.mark.parametrize("step", range(4, 11))
def test_a_training_that_a_signal_ended_goes_on_to_the_same_end(fit_interruptibly, signal_at, step, group, interval):
    trainer = {"steps_per_execution": group, "val_check_interval": interval}
    straight, stopped = fit_interruptibly(**trainer)
    assert stopped is None
    quiet = signal_at(step, TERM)
    _, stopped = fit_interruptibly(**trainer)
    quiet()
    assert step < stopped.step <= step + max(group, 4) + 1
    assert read_checkpoint(stopped.checkpoint)["global_step"] == stopped.step
    resumed, again = fit_interruptibly(stopped.checkpoint, **trainer)
    assert again is None
    assert len(resumed.start.batches) <= 20 - stopped.step
    assert_same(resumed, straight)


@pytest.mark.parametrize("step", [17, 19])
def test_a_signal_in_the_last_group_leaves_the_finished_training(fit_interruptibly, signal_at, step):
    straight, _ = fit_interruptibly(steps_per_execution=50)
    quiet = signal_at(step, INT)
    _, stopped = fit_interruptibly(steps_per_execution=50)
    quiet()
    assert (stopped.step, stopped.status) == (20, 130)
    resumed, again = fit_interruptibly(stopped.checkpoint, steps_per_execution=50)
    assert again is None
    assert_same(resumed, straight)


@pytest.mark.parametrize(("which", "status"), [(INT, 130), (TERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_second_signal_ends_at_once(fit_interruptibly, signal_at, which, status):
    signal_at(7, which, which)
    parts, stopped = fit_interruptibly(steps_per_execution=50)
    assert (stopped.status, stopped.checkpoint) == (status, None)
    assert parts.trainer.global_step < 10
    assert {path.suffix for path in parts.checkpoints.iterdir()} == {".ckpt"}
    assert read_checkpoint(parts.checkpoints / "last.ckpt")["global_step"] == 5


def test_a_second_signal_while_the_first_is_saved_breaks_no_file(fit_interruptibly, signal_at, monkeypatch):
    save = torch.save

    def interrupted_save(content, file):
        if content["global_step"] == 8:
            file.write(b"half")
            os.kill(os.getpid(), INT)
        save(content, file)

    monkeypatch.setattr(torch, "save", interrupted_save)
    signal_at(7, INT)
    parts, stopped = fit_interruptibly(steps_per_execution=1)
    assert stopped.checkpoint is None
    assert sorted(path.name for path in parts.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert read_checkpoint(parts.checkpoints / "last.ckpt")["global_step"] == 5


def test_the_handlers_are_put_back(fit_interruptibly, signal_at):
    before = [signal.getsignal(number) for number in (INT, TERM)]
    signal_at(7, INT)
    _, stopped = fit_interruptibly()
    assert stopped is not None
    assert [signal.getsignal(number) for number in (INT, TERM)] == before


class Asked(Callback):
    def __init__(self, interruption):
        self.interruption = interruption

    def on_train_start(self, trainer, pl_module):
        self.interruption._requeue = lambda number, frame: self.calls.append((number, trainer.global_step))
        self.calls = []


def test_a_request_to_requeue_waits_for_the_end_of_the_group(make_parts, signal_at):
    _, last = checkpoint_callbacks()
    interruption = Interruption(last)
    asked = Asked(interruption)
    parts = make_parts(MODEL, callbacks=[asked], steps_per_execution=4, log_every_n_steps=100)
    parts.trainer.callbacks.append(interruption)
    before = signal.signal(signal.SIGUSR1, interruption._note_requeue)
    signal_at(1, signal.SIGUSR1)
    parts.trainer.fit(parts.module, parts.data)
    signal.signal(signal.SIGUSR1, before)
    assert asked.calls == [(signal.SIGUSR1, 4)]
    assert parts.trainer.global_step == 10


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ("fit --config a.yaml", "fit --config a.yaml"),
        ("fit --ckpt_path auto --config a.yaml", "fit --config a.yaml"),
        ("fit --ckpt_path=x.ckpt --model.lr 0.1", "fit --model.lr 0.1"),
    ],
)
def test_the_message_tells_the_command_that_goes_on(tmp_path, given, command):
    stopped = Stopped(INT, tmp_path / "a b.ckpt", 7)
    assert stopped.message(given.split()) == (
        f"stopped at step 7; to resume: python train.py {command} --ckpt_path '{tmp_path}/a b.ckpt'"
    )


def test_a_training_that_had_lost_patience_does_not_train_on(fit_interruptibly):
    # With min_delta so large no epoch is better than the first.
    def patience(n):
        return Patience("val/loss", patience=n, min_delta=100.0)

    straight, _ = fit_interruptibly(callbacks=[patience(2)], max_epochs=9)
    assert straight.trainer.global_step == 15
    path = straight.checkpoints / "last.ckpt"
    resumed, _ = fit_interruptibly(path, callbacks=[patience(2)], max_epochs=9)
    assert resumed.start.batches == []
    more, _ = fit_interruptibly(path, callbacks=[patience(3)], max_epochs=9)
    assert more.trainer.global_step == 20


KEPT = ("best.ckpt", "last.ckpt")


@pytest.mark.parametrize(
    ("choice", "first"), [((), "best.ckpt"), (("--test", "last"), "last.ckpt"), (("--test", "best"), "best.ckpt")]
)
@pytest.mark.parametrize("which", [INT, TERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("hook", ["on_test_start", "on_test_batch_end", "on_fit_end"])
def test_a_signal_after_the_training_names_what_it_left(
    run_main, tmp_path, monkeypatch, capsys, which, choice, first, hook
):
    x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).numpy()
    numpy.savez(tmp_path / "data.npz", x=x, y=(x[:, 0] > 0.5).astype(int))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pictures, "_show", lambda *arguments, **options: None)
    monkeypatch.setattr(Pictures, hook, lambda *arguments, **options: os.kill(os.getpid(), which))
    fit = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.dataset", "arrays"]
    fit += ["--data.root", "data.npz", "--model.hidden", "[4]", "--trainer.max_epochs", "1", *choice]
    fit += ["--data.batch_size", "8", "--trainer.log_every_n_steps", "1"]
    with pytest.raises(SystemExit) as ended:
        run_main("fit", *fit)
    assert ended.value.code == 128 + which
    line = capsys.readouterr().out.splitlines()[-1]
    folder = "lightning_logs/default/version_0/checkpoints"
    files = [f"{folder}/{name}" for name in sorted(KEPT, key=lambda name: name != first)]
    assert line.startswith(f"stopped after the training, which left {files[0]} and {files[1]}; to test: ")
    assert line.endswith(f": {shlex.join(['python', 'train.py', 'test', *fit, '--ckpt_path', files[0]])}")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pictures, "_show", lambda *arguments, **options: None)
    run_main(*shlex.split(line.partition("train.py ")[2]))
    assert f"({first}, epoch 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("trained", "kept", "said"),
    [
        (False, [], "stopped; no checkpoint was written by it"),
        (
            False,
            ["last.ckpt"],
            "stopped at once; to resume from the newest checkpoint: python train.py fit --ckpt_path ",
        ),
        (True, [], "stopped; no checkpoint was written by it"),
    ],
)
def test_what_a_second_signal_says(trained, kept, said):
    stopped = Stopped(INT)
    stopped.trained, stopped.kept = trained, [Path(name) for name in kept]
    assert stopped.message(["fit"]) == said + "".join(kept)
