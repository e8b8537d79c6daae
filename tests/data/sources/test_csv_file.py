"""Tables from files: what is read, what is learned of which rows, and trainings from files to metrics."""

import csv
import json
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.neural_network import MLPClassifier

from mlp_lightning.data.module import DataModule
from mlp_lightning.data.preprocessing import preprocessing_from
from mlp_lightning.data.tabular.tables import read_table
from mlp_lightning.errors import UserError


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def flowers(n, seed=0):
    """A number, a colour and a truth that tell the class, and a code."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        k = int(rng.integers(3))
        colour, code = ["red", "blue", "white"][k], int(rng.choice([10, 20, 30]))
        rows.append(
            [f"{k + rng.normal() / 9:.3f}", colour, "yes" if k == 1 else "no", code, ["rose", "iris", "lily"][k]]
        )
    return rows


HEADER = ["size", "colour", "scent", "code", "name"]


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "flowers.csv", HEADER, flowers(90))


def module(path, **options):
    return DataModule(**{"dataset": "csv", "root": str(path), "label": "name", "seed": 1, **options})


def test_numbers_are_standardised_by_the_training_part_alone(table):
    data = module(table, validation_size=20)
    data.setup("fit")
    size = data.data.train_x[:, 0]
    trains, validates = data._train_indices, data._validation_indices
    assert (len(size), len(trains), len(validates), len(data.data.test_y)) == (72, 52, 20, 18)
    assert float(size[trains].mean()) == pytest.approx(0, abs=1e-6)
    assert float(size[trains].std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert abs(float(size.mean())) > 1e-4, "the rows that validate would not have changed it"


def test_columns_become_what_they_hold(table):
    data = module(table, categorical=["code"], ignore=["scent"]).data
    names = data.preprocessing.feature_names
    assert names == ("size", *(f"colour={c}" for c in ("blue", "red", "white")), *(f"code={c}" for c in (10, 20, 30)))
    assert data.class_names == ("iris", "lily", "rose")
    assert (data.image_shape, data.n_features) == ((), 7)
    assert module(table).data.preprocessing.feature_names == ("size", *names[1:4], "scent", "code")
    assert preprocessing_from(data.description()["preprocessing"]) == data.preprocessing


def test_the_test_set_is_a_share_of_each_class_and_the_same_for_every_seed(table):
    one, other = (module(table, seed=seed, test_size=0.3).data for seed in (1, 2))
    sizes = one.train_y.bincount() + one.test_y.bincount()
    assert ((one.test_y.bincount() - 0.3 * sizes).abs() < 1).all()
    assert torch.equal(one.test_y, other.test_y)
    different = module(table, test_size=0.3, test_seed=5).data
    assert not torch.equal(one.test_x[:, 1:4], different.test_x[:, 1:4])


@pytest.mark.parametrize("how", ["folder", "path"])
def test_a_given_test_table(tmp_path, how):
    folder = tmp_path / "tables"
    folder.mkdir()
    train = write(folder / "train.csv", HEADER, flowers(40))
    test = write(folder / "test.csv" if how == "folder" else tmp_path / "other.csv", HEADER, flowers(15, seed=1))
    data = module(folder if how == "folder" else train, **({} if how == "folder" else {"test_path": str(test)})).data
    assert (len(data.train_y), len(data.test_y)) == (40, 15)
    raw = torch.tensor([float(value) for value in read_table(test)["size"]])
    column = data.preprocessing.columns[0]
    torch.testing.assert_close(data.test_x[:, 0], (raw - column.mean) / column.std)


@pytest.mark.parametrize(("missing", "fill"), [("mean", 4.0), ("median", 3.0), ("most_frequent", 1.0)])
def test_missing_values_are_filled_in(tmp_path, missing, fill):
    cells = ["1", "1", "", "3", "5", "10"]
    rows = [[cell, "" if k == 4 else "uv"[k % 2], k % 2] for k, cell in enumerate(cells)]
    path = write(tmp_path / "it.csv", ["n", "t", "y"], rows)
    test = write(tmp_path / "test.csv", ["n", "t", "y"], [["", "", 0]])
    data = module(path, label="y", missing=missing, validation="none", test_path=str(test)).data
    number, text = data.preprocessing.columns
    assert (number.fill, text.fill) == (fill, "v")
    filled = np.array([1, 1, fill, 3, 5, 10])
    assert (number.mean, number.std) == pytest.approx((filled.mean(), filled.std()))
    assert data.test_x[0].tolist() == pytest.approx([(fill - filled.mean()) / filled.std(), 0, 1])


def test_a_constant_column_becomes_zero(tmp_path):
    rows = [["0.1", "7", k % 2] for k in range(20)]
    data = module(write(tmp_path / "it.csv", ["a", "b", "y"], rows), label="y").data
    assert not data.train_x.any()


def test_an_unknown_category_may_be_none_of_the_known(tmp_path):
    path = write(tmp_path / "it.csv", ["t", "y"], [["uv"[k % 2], k % 2] for k in range(20)])
    test = write(tmp_path / "test.csv", ["t", "y"], [["w", 0], ["v", 1]])
    options = {"label": "y", "test_path": str(test)}
    assert module(path, unknown="zero", **options).data.test_x.tolist() == [[0, 0], [0, 1]]
    with pytest.raises(UserError, match=r"test\.csv, line 2, column 't': got 'w'.*data\.unknown: zero"):
        module(path, **options).data  # noqa: B018


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_from_a_file_to_metrics_and_a_test_of_other_files(table, tmp_path, run_files):
    options = ("--data.dataset", "csv", "--data.label", "name")
    fitted = run_files(
        "fit",
        *options,
        "--data.root",
        table,
        "--data.categorical",
        "[code]",
        "--trainer.max_epochs",
        "20",
        "--model.lr",
        "0.03",
    )
    assert metrics(fitted)["test/accuracy"] > 0.9
    assert set(metrics(fitted)["test/class_accuracy"]) == {"rose", "iris", "lily"}
    drawn = {path.name for path in fitted.glob("*.png")}
    assert drawn == {"confusion_test.png", "confusion_val.png", "curves.png"}
    checkpoint = fitted / "checkpoints" / "best.ckpt"
    held = torch.load(checkpoint, weights_only=True)["data"]
    assert {**held, "rows": ...} == {**module(table, categorical=["code"], seed=0).data.description(), "rows": ...}

    again = run_files("test", "--ckpt_path", checkpoint)
    assert metrics(again)["test/loss"] == pytest.approx(metrics(fitted)["test/loss"], rel=1e-6)
    valid = run_files("validate", "--ckpt_path", checkpoint)
    assert metrics(valid)["val/loss"] == pytest.approx(metrics(fitted)["val/loss"], rel=1e-6)

    # Other rows, in another order of columns, of two classes only: by statistics of their own they would be others.
    rows = [row for row in flowers(30, seed=5) if row[-1] != "rose"]
    other = write(tmp_path / "other.csv", HEADER[::-1], [row[::-1] for row in rows])
    table.unlink()
    tested = run_files("test", "--ckpt_path", checkpoint, "--data.test_path", other)
    assert metrics(tested)["test/accuracy"] > 0.9
    assert metrics(tested)["test/class_accuracy"]["rose"] is None


def test_check_and_explain_take_tables(table, tmp_path, run_main, capsys):
    options = ("--data.dataset", "csv", "--data.root", table, "--data.label", "name", "--model.hidden", "[5]")
    run_main("check", *options, "--model.class_weights", "balanced", "--model.reduction", "mean")
    run_main("explain", *options, "--html", tmp_path / "page.html", "--sample", "2")
    shown = capsys.readouterr().out
    assert re.search(r"network    \d+-5-3, ", shown)
    assert re.search(r"sample     2: row 2 of its minibatch, class (rose|iris|lily)\n", shown)
    assert "lily" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("weights", ["null", "balanced", "[1,3]"])
def test_imbalance_is_told_unless_it_is_weighed(tmp_path, monkeypatch, run_cli, capsys, weights):
    # A run without a logger keeps its config where it is started.
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [[f"{rng.normal():.3f}", "rare" if k % 20 == 0 else "often"] for k in range(200)]
    path = write(tmp_path / "it.csv", ["n", "name"], rows)
    cli = run_cli(
        *("fit", "--data.dataset", "csv", "--data.root", path, "--data.label", "name", "--model.hidden", "[3]"),
        *("--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.enable_checkpointing", "false"),
        *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"),
        *("--model.class_weights", weights),
    )
    captured = capsys.readouterr()
    assert ("warning: class often has" in captured.err) == (weights == "null")
    assert "largest class   " in captured.out
    if weights == "balanced":
        n_k = np.bincount(cli.datamodule.data.train_y[cli.datamodule._train_indices])
        assert cli.model.loss.class_weights.tolist() == pytest.approx((n_k.sum() / (2 * n_k)).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
def test_as_accurate_as_scikit_learn(load, tmp_path, run_files):
    """As its MLPClassifier with its defaults, on the same split, in the mean over three seeds."""
    held = load()
    header = [f"f{k}" for k in range(held.data.shape[1])] + ["y"]
    rows = [[*x.tolist(), held.target_names[y]] for x, y in zip(held.data, held.target, strict=True)]
    path = write(tmp_path / "it.csv", header, rows)
    data = DataModule(dataset="csv", root=str(path), label="y", validation="none").data
    options = ("fit", "--config", "table.yaml", "--data.root", path, "--data.label", "y", "--seed_everything")
    ours, theirs = [], []
    for seed in range(3):
        ours.append(metrics(run_files(*options, seed, short=False))["test/accuracy"])
        with warnings.catch_warnings():
            # It stops after 200 epochs, converged or not.
            warnings.simplefilter("ignore")
            model = MLPClassifier(random_state=seed).fit(data.train_x, data.train_y)
        theirs.append(model.score(data.test_x, data.test_y))
    assert sum(ours) >= sum(theirs) - 1e-9
