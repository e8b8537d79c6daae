"""The compare command: what it plans, what it repeats, what it prints and draws."""

import json
import math
import re
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlp_lightning.commands.compare import ensemble as ensemble_module
from mlp_lightning.commands.compare import runs as runs_module
from mlp_lightning.commands.compare.command import NOTEBOOK, compare, table
from mlp_lightning.commands.compare.runs import Run, execute, plan
from mlp_lightning.errors import UserError
from mlp_lightning.training.runs.predictions import Predictions


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("model:\n  lr: 0.1\n")
    return path


class FakeFits:
    """Stands for the process that fits: notes the command, writes what a fit writes."""

    def __init__(self, accuracy: dict[int, float] | None = None, *, fail_at: int | None = None) -> None:
        self.commands: list[list[str]] = []
        self.accuracy = accuracy or {}
        self.fail_at = fail_at

    def __call__(self, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
        self.commands.append(command)
        seed = int(command[command.index("--seed_everything") + 1])
        if seed == self.fail_at:
            return 2, "Seed set to 1\nerror: model.lr: got -1, must be more\n"
        folder = Path(command[command.index("--trainer.default_root_dir") + 1]) / "lightning_logs" / "x" / "version_0"
        (folder / "checkpoints").mkdir(parents=True)
        accuracy = self.accuracy.get(seed, 0.5)
        metrics = {"test/accuracy": accuracy, "test/loss": 0.25, "seconds": 3.0, "epochs": 2}
        metrics |= {"val/accuracy": accuracy + 0.01, "test/errors": round(100 * (1 - accuracy))}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        checkpoint = {"state_dict": {"w": torch.zeros(4)}, "hyper_parameters": {}, "sizes": [2, 2], "window": {}}
        checkpoint["history"] = {"val/accuracy": ([10, 20], [0.5 + seed / 10, 0.9])}
        torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
        return 0, ""


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> FakeFits:
    fake = FakeFits({0: 0.9, 1: 0.8, 2: 0.85})
    monkeypatch.setattr(runs_module.Children, "run", staticmethod(fake))
    return fake


def test_plan_is_every_combination_for_every_seed(config: Path) -> None:
    other = config.with_name("other.yaml")
    runs = plan([config, other], ["model.lr=0.1,0.01", "model.hidden=[5,4],[3]"], 2)
    assert len(runs) == 2 * 2 * 2 * 2
    assert len(set(runs)) == len(runs)
    assert runs[0].settings == (("model.lr", "0.1"), ("model.hidden", "[5,4]"))
    assert {run.seed for run in runs} == {0, 1}


@given(st.lists(st.sampled_from(["1", "0.5", "[1,2]", "[[1],[2,3]]", "relu"]), min_size=1, max_size=5))
def test_commas_within_brackets_belong_to_a_value(values: list[str]) -> None:
    runs = plan([Path("a.yaml")], [f"option={','.join(values)}"], 1)
    assert [run.settings[0][1] for run in runs] == values


@pytest.mark.parametrize("setting", ["model.lr", "=3", "model.lr=", ""])
def test_grid_of_another_form_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=r"^--grid: got "):
        plan([Path("a.yaml")], [setting], 1)


def test_finished_runs_are_not_repeated_until_the_config_changes(config: Path, tmp_path: Path, fits: FakeFits) -> None:
    runs = plan([config], [], 3)
    first = {run.seed: metrics for run, _, metrics in execute(runs, tmp_path / "logs", 2)}
    assert len(fits.commands) == 3
    again = {run.seed: metrics for run, _, metrics in execute(runs, tmp_path / "logs", 2)}
    assert len(fits.commands) == 3
    assert again == first
    config.write_text("# A comment is no change.\nmodel: {lr: 0.1}\n")
    list(execute(plan([config], [], 3), tmp_path / "logs", 1))
    assert len(fits.commands) == 3
    config.write_text("model:\n  lr: 0.2\n")
    list(execute(plan([config], [], 3), tmp_path / "logs", 1))
    assert len(fits.commands) == 6


def test_run_without_a_test_is_not_finished(config: Path, tmp_path: Path, fits: FakeFits) -> None:
    (run,) = plan([config], [], 1)
    run.start(tmp_path, 1, runs_module.Children())
    metrics = next(tmp_path.rglob("metrics.json"))
    assert run.finished(tmp_path) == metrics.parent
    metrics.write_text(json.dumps({"val/accuracy": 0.9}))
    assert run.finished(tmp_path) is None


def test_failed_fit_is_told_in_its_own_words(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeFits(fail_at=1)
    monkeypatch.setattr(runs_module.Children, "run", staticmethod(fake))
    with pytest.raises(UserError, match=r"^small, seed 1: model\.lr: got -1, must be more$"):
        list(execute(plan([config], [], 3), tmp_path, 1))
    assert plan([config], [], 1)[0].finished(tmp_path) is not None


def test_command_prints_the_table_and_draws(
    config: Path, tmp_path: Path, fits: FakeFits, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    compare([str(config), "--logs", str(logs), "--grid", "model.lr=1,2"], Path)
    printed = capsys.readouterr().out
    assert len(fits.commands) == 6
    assert all("--model.lr=1" in command or "--model.lr=2" in command for command in fits.commands)
    mean, spread = statistics.mean([0.9, 0.8, 0.85]), statistics.stdev([0.9, 0.8, 0.85])
    for value in (1, 2):
        row = f"| small model.lr={value} | 2 | {mean + 0.01:.4f} ± {spread:.4f} | {mean:.4f} ± {spread:.4f} | 0.2500 ± "
        assert row in printed
    assert "| 0.9000, 0.8000, 0.8500 | 10, 20, 15 |" in printed
    assert "[6/6]" in printed
    assert (logs / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "ensemble" not in printed
    assert not (logs / "ensemble.json").exists()


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """What each seed's network answers to five samples, whose classes are all 0."""
    answers = {0: [0, 0, 0, 0, 1], 1: [1, 0, 0, 0, 0], 2: [0, 1, 0, 0, 0]}

    def predict(run_folder: Path) -> Predictions:
        seed = int(re.search(r"-seed(\d)-", str(run_folder))[1])
        logits = 5 * torch.nn.functional.one_hot(torch.tensor(answers[seed]), 2).double()
        return Predictions(logits.log_softmax(1), torch.zeros(len(answers[seed]), dtype=torch.long))

    def predict_copies(run_folder: Path) -> Predictions:
        log_p, targets = predict(run_folder)
        return Predictions(log_p, 1 - targets)

    monkeypatch.setattr(ensemble_module, "predict_test_set", predict)
    monkeypatch.setattr(ensemble_module, "predict_copies", predict_copies)
    return answers


def test_ensemble_is_a_column_and_a_file(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicted: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs_module.Children, "run", staticmethod(FakeFits({0: 0.8, 1: 0.8, 2: 0.8})))
    logs = tmp_path / "logs"
    compare([str(config), "--logs", str(logs), "--ensemble", "--grid", "model.lr=1,2"], Path)
    printed = capsys.readouterr().out
    header, _, *rows = (line for line in printed.splitlines() if line.startswith("|"))
    assert header.endswith("| ensemble |")
    assert [row.split(" | ")[-1] for row in rows] == ["1.0000, 0 errors, 5 over deformed copies |"] * 2
    assert "when it was tested" not in printed
    content = json.loads((logs / "ensemble.json").read_text())
    assert list(content) == ["small model.lr=1", "small model.lr=2"]
    counts = {
        "test_samples": 5,
        "errors_by_network": [1, 1, 1],
        "errors": 0,
        "errors_of_mean_logits": 0,
        "errors_over_copies": 5,
    }
    assert content["small model.lr=1"] == {**counts, "accuracy": 1.0}


def test_ensemble_of_networks_that_are_not_those_tested_is_told(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicted: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs_module.Children, "run", staticmethod(FakeFits({0: 0.8, 1: 0.6, 2: 0.8})))
    compare([str(config), "--logs", str(tmp_path), "--ensemble"], Path)
    told = [line for line in capsys.readouterr().out.splitlines() if "when it was tested" in line]
    assert told == ["small, seed 1: 1 errors now, 2 when it was tested"]


def test_ensemble_on_other_data_is_refused(config: Path, tmp_path: Path, fits: FakeFits, predicted: dict) -> None:
    predicted[1] = [0, 0]
    with pytest.raises(UserError, match=r"^--ensemble: small: an ensemble needs networks .* same samples"):
        compare([str(config), "--logs", str(tmp_path), "--ensemble"], Path)


def test_ensemble_without_checkpoints_is_refused(config: Path, tmp_path: Path, fits: FakeFits) -> None:
    list(execute(plan([config], [], 2), tmp_path, 1))
    for metrics in tmp_path.rglob("metrics.json"):
        (metrics.parent / "config.yaml").write_text("test: last\n")
        (metrics.parent / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"^--ensemble: small: the run in .* has no checkpoints/last\.ckpt"):
        compare([str(config), "--logs", str(tmp_path), "--seeds", "2", "--ensemble"], Path)


def test_run_of_an_older_version_or_without_validation_has_dashes() -> None:
    metrics = {"test/accuracy": 0.97, "test/loss": 0.1, "seconds": 1.0, "epochs": 15}
    printed = table({Run(Path("a.yaml"), (), seed): metrics for seed in (0, 1)}, {}, notebook=False)
    assert printed.splitlines()[2].startswith("| a | 15 | – | 0.9700 ± 0.0000 |")
    assert printed.endswith("| 0.9700, 0.9700 | –, – |")


def test_an_infinite_loss_has_no_deviation() -> None:
    metrics = {"test/accuracy": 0.9, "test/loss": 0.25, "seconds": 3, "epochs": 2}
    runs = {Run(Path("x.yaml"), (), seed): metrics | {"test/loss": loss} for seed, loss in enumerate([0.25, math.inf])}
    assert table(runs, {}, notebook=False).splitlines()[-1].split(" | ")[4] == "inf"


def test_no_setting_steers_the_terminal(config: Path, tmp_path: Path, fits: FakeFits, capsys) -> None:
    logs = tmp_path / "l\x1b[31mogs"
    compare([str(config), "--seeds", "1", "--grid", "model.name=\x1b[8m\x07]", "--logs", str(logs)], Path)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "model.name=\\x1b[8m\\x07], seed 0:" in out
    assert "tensorboard --logdir" in out
    assert "l\\x1b[31mogs" in out


def test_notebook_table_sets_its_figures_beside_ours() -> None:
    run = Run(Path("relu.yaml"), (), 0)
    metrics = {"test/accuracy": 0.97, "test/loss": 0.1, "seconds": 1.0, "epochs": 15}
    assert "| relu | 15 | 0.9799 / 0.0986 | – | 0.9700 | 0.1000 |" in table({run: metrics}, {}, notebook=True)


def test_every_experiment_of_the_notebook_has_a_config() -> None:
    configs = Path(__file__).resolve().parents[3] / "configs"
    assert all((configs / f"{name}.yaml").is_file() for name in NOTEBOOK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "compare: got no config", id="nothing"),
        pytest.param(["a.yaml", "--seeds", "0"], "--seeds: got 0", id="no seed"),
        pytest.param(["a.yaml", "--seeds", "1", "--ensemble"], "--ensemble: got --seeds 1, must be", id="one network"),
        pytest.param(["a.yaml", "--jobs", "0"], "--jobs: got 0", id="no job"),
        pytest.param(["a.yaml", "--seeds", "x"], "compare: argument --seeds: invalid int value: 'x'", id="no number"),
        pytest.param(["a.yaml", "--frobnicate"], "compare: unrecognized arguments: --frobnicate", id="unknown"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compare(arguments, Path)
    assert str(caught.value).startswith(message)


@pytest.mark.slow
def test_real_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "trainer:\n  max_epochs: 1\n  limit_train_batches: 20\n  accelerator: cpu\nmodel:\n  hidden: [20]\n"
    )
    compare([str(config), "--seeds", "2", "--logs", str(tmp_path / "logs"), "--ensemble"], Path)
    printed = capsys.readouterr().out
    assert "| tiny | 1 | 0." in printed
    assert "when it was tested" not in printed
    assert json.loads((tmp_path / "logs" / "ensemble.json").read_text())["tiny"]["test_samples"] == 10_000
    shutil.rmtree(tmp_path / "logs")
