"""The benchmarks run, compare what they say they compare, and leave files that the figure can be drawn from."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = ["step", "epoch", "estimator", "accuracy_time", "memory", "growth", "notebook", "scaling"]


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, BENCHMARKS / f"{script}.py", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a script prints and the rows it leaves, each script run once."""
    folder = tmp_path_factory.mktemp("results")
    found = {}

    def results(script: str):
        if script not in found:
            printed = run(script, "--quick", "--threads", 1, "--output", folder)
            found[script] = printed, json.loads((folder / f"{script}.json").read_text())["rows"]
        return found[script]

    results.folder = folder
    return results


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_quick_run_prints_ratios(quick, script):
    printed, rows = quick(script)
    assert re.search(r"ratio .*?\d+\.\d\d", printed)
    assert rows


@pytest.mark.slow
def test_every_contender_of_the_epoch_learns_alike(quick):
    printed, rows = quick("epoch")
    assert "NOT ALIKE" not in printed
    assert {"hand loop", "fit", "autograd"} <= {row["name"] for row in rows}
    accuracies = [row["accuracy"] for row in rows]
    assert max(accuracies) - min(accuracies) < 0.02
    # Ten steps of plain SGD are no training to speak of, but far from the tenth that guessing gets.
    assert min(accuracies) > 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [("hand, SGD", 8), ("hand, momentum", 12), ("hand, Adam", 16), ("autograd, SGD", 8), ("autograd, Adam fused", 16)],
)
def test_bytes_a_parameter(quick, name, expected):
    """Four each for the parameter, its gradient and every moment of fp32."""
    (row,) = [row for row in quick("memory")[1] if row["name"] == name and "bytes" in row]
    assert sum(row["bytes"].values()) == pytest.approx(expected, abs=0.3)


@pytest.mark.slow
def test_multiply_adds_grow_with_the_square_of_the_width(quick):
    rows = [row for row in quick("growth")[1] if row["growing"].startswith("width")]
    assert {round(row["expected"], 6) for row in rows} == {2.0}


@pytest.mark.slow
def test_the_figure_and_its_table(quick, tmp_path):
    quick("epoch")
    quick("step")
    printed = run("figure", "--results", quick.folder, "--figure", tmp_path / "speed.png")
    assert "| autograd |" in printed
    assert imread(tmp_path / "speed.png").std() > 0.05


@pytest.mark.slow
def test_accuracy_trains_and_leaves_a_table_and_a_figure(tmp_path):
    small = tmp_path / "small.yaml"
    options = {"max_epochs": 1, "limit_train_batches": 40, "accelerator": "cpu"}
    small.write_text(yaml.safe_dump({"trainer": options, "model": {"hidden": [20]}}))
    folders = ["--logs", tmp_path / "logs", "--output", tmp_path, "--figure", tmp_path / "accuracy.png"]
    printed = run("accuracy", small, "--seeds", 2, *folders)
    (row,) = json.loads((tmp_path / "accuracy.json").read_text())["rows"]
    assert row["parameters"] == 20 * 785 + 10 * 21
    assert all(10 < error < 85 for error in [*row["test_error"], row["ensemble_error"]])
    by_seed = ", ".join(f"{error:.2f}" for error in row["test_error"])
    assert f"| {by_seed} |" in (tmp_path / "accuracy.md").read_text() in printed
    assert imread(tmp_path / "accuracy.png").std() > 0.05
    assert "small, seed 1" in run("accuracy", small, "--seeds", 2, *folders), "finished runs are told again"
    assert len(list(tmp_path.rglob("metrics.json"))) == 2, "but not repeated"


ALONE = {"ensemble_error": None, "ensemble_copies_error": None}


def accuracy_row(**other: object) -> dict:
    errors = {"test_error": [0.41, 0.45], "copies_error": [0.38, 0.4]}
    together = {"ensemble_error": 0.35, "ensemble_copies_error": 0.34}
    size = {"seconds": [600.0, 620.0], "epochs": 100, "parameters": 1_330_000, "devices": ["cpu"]}
    return {"config": "best", "dataset": "mnist", **errors, **together, **size, **other}


def test_table_of_accuracy(importable):
    from accuracy import markdown

    rows = [accuracy_row(), accuracy_row(test_error=[0.4], copies_error=[], seconds=[9.0], **ALONE)]
    assert markdown(rows).splitlines()[2:] == [
        "| best | mnist | 0.43 ± 0.03 | 0.41, 0.45 | 0.39 ± 0.01 | 0.35; 0.34 | 610 | 100 | 1,330,000 |",
        "| best | mnist | 0.40 | 0.40 |  |  | 9 | 100 | 1,330,000 |",
    ]


def test_growth_stands_in_a_row_for_each_thing_that_grows(importable):
    from table import growth

    found = [
        {"growing": growing, "name": name, "expected": 2.0, "slope": slope}
        for growing, name, slope in (("width", "ours", 1.5), ("width", "theirs", 1.25), ("images", "ours", 1.0))
    ]
    assert growth(found)[2:4] == ["| width | 2.00 | 1.50 | 1.25 |", "| images | 2.00 | 1.00 |  |"]
    assert growth([]) == []


def test_figure_of_accuracy_shows_each_seed_and_each_published_result(importable):
    from accuracy import CIRESAN, DEFORMED, PERMUTED, draw

    alone = accuracy_row(config="one", seconds=[9.0], test_error=[0.6], **ALONE)
    axes = draw([accuracy_row(), alone]).axes[0]
    points = {tuple(point) for line in axes.lines for point in line.get_xydata()}
    shown = {(600.0, 0.41), (620.0, 0.45), (610.0, 0.43), (1220.0, 0.35), (9.0, 0.6), CIRESAN[1:]}
    assert {(x, round(y, 9)) for x, y in points} >= shown
    heights = {line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    assert heights >= {*DEFORMED.values(), *PERMUTED.values()}
    for x, y in shown:
        assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
        assert axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_labels_keep_apart(importable):
    from accuracy import spaced

    assert list(spaced([1.0, 1.05, 3.0], factor=2)) == [1.0, 2.0, 4.0]


def test_ratio_compares_within_each_round(importable):
    from timing import ratio

    # The second round was three times as slow for both.
    assert ratio([2.0, 6.0, 2.2], [1.0, 3.0, 1.0]) == (2.0, 2.0, 2.2)


def test_slope_of_a_power_law(importable):
    from growth import slope

    sizes = [1, 2, 8, 64]
    assert slope(sizes, [5 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_devices_stop_paying_where_a_hop_costs_what_they_save(importable):
    from scaling import Model

    # t(n) = B c / n + 2 (n − 1) h has its least at n = √(B c / 2 h), here 8.
    model = Model(numel=0, fixed=5.0, per_sample=1.0, hop=0.5, bandwidth=1.0)
    assert model.best(64) == 8
    assert model.step(64, 8) == 5 + 8 + 7
    assert model.step(64, 1) == 5 + 64, "a device alone sends nothing"
    # Bytes that two devices already take longer to move than they save: none is worth it.
    assert model._replace(numel=100).best(64) == 1


def test_bytes_of_an_all_reduce(importable):
    from scaling import bytes_sent

    assert [bytes_sent(1000, n) for n in (1, 2, 4)] == [0, 4000, 6000]


def test_the_model_recovers_what_made_the_timings(importable):
    from networks import hand_network
    from scaling import ALONE, SUM, models

    found = {}
    for width in (8, 16, 32):
        numel = hand_network((784, width, width, 10)).flat.numel()
        alone = {f"{ALONE}, {n}": [1e-4 + n * 1e-6] for n in (32, 512)}
        found[width] = {**alone, ALONE: [1e-4 + 128e-6], SUM: [2e-4 + 4 * numel / 1e9]}
    for model in models(found, 128).values():
        assert model[1:] == pytest.approx((1e-4, 1e-6, 1e-4, 1e9))


def test_seconds_to_the_first_epoch_at_the_target(importable):
    from accuracy_time import seconds_to
    from workers import Epoch

    epochs = [Epoch(2.0, 0.90), Epoch(3.0, 0.98), Epoch(4.0, 0.97)]
    assert seconds_to(0.97, epochs) == 5.0
    assert seconds_to(0.99, epochs) is None


def config(tmp_path, **model: object) -> Path:
    options = {"hidden": [500, 250, 100], "optimizer": "adam", "lr": 0.003, "schedule": "cosine", **model}
    path = tmp_path / "race.yaml"
    data = {"batch_size": 100, "validation_size": 5000}
    path.write_text(yaml.safe_dump({"trainer": {"max_epochs": 2}, "model": options, "data": data}))
    return path


def test_peers_follow_the_config(importable, tmp_path):
    from peers.peer import Task

    task = Task.from_config(config(tmp_path, warmup_epochs=1.0, final_factor=0.5, label_smoothing=0.1))
    rates = task.rates()
    assert rates.shape == (2, 550)
    assert np.all(np.diff(rates[0]) > 0)
    assert rates.max() == np.float32(0.003)
    assert np.all(np.diff(rates[1]) < 0)
    assert rates[1, -1] == pytest.approx(0.0015, rel=1e-4)
    assert task.unshared == ("model.label_smoothing",)


def test_a_race_refuses_what_peers_would_not_do(importable, tmp_path):
    from peers.peer import Task

    with pytest.raises(ValueError, match=r"model\.optimizer is sgd, must be adam"):
        Task.from_config(config(tmp_path, optimizer="sgd"))


def test_a_peer_that_is_not_installed_is_named(importable):
    from peers import Entry

    assert Entry("keras_fit", "KerasFit", packages=("no_such_package",)).missing() == "no_such_package not installed"
