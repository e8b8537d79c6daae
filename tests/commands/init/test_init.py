import csv
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from mlp_lightning.data.module import DataModule

RNG = np.random.default_rng(0)


def write_table(path: Path, *, rows: int = 60, rare: int = 30, missing: bool = False) -> None:
    """Numbers, texts, codes, a row's number and a row's name; ``rare`` of the rows are of class b."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "name", "length", "garden", "floor", "kind: of"])
        for k in range(rows):
            length = "" if missing and k % 9 == 0 else f"{RNG.normal():.3f}"
            writer.writerow([k + 1, f"plant {k}", length, "ns"[k % 2], k % 3, "b" if k < rare else "a"])


def write_pictures(folder: Path, sizes: list[tuple[int, int]], mode: str = "L") -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for k in range(12):
            height, width = sizes[k % len(sizes)]
            shape = (height, width) if mode == "L" else (height, width, 3)
            Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{k}.png")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "table.csv")
    write_table(tmp_path / "gaps.csv", rare=5, missing=True)
    write_pictures(tmp_path / "small", [(6, 5)])
    write_pictures(tmp_path / "mixed", [(80, 40), (160, 120)], "RGB")
    x, y = RNG.normal(size=(50, 4)), np.arange(50) % 2
    np.savez(tmp_path / "plain.npz", x=x, y=y)
    np.savez(tmp_path / "large.npz", x=1000 * x, y=y)
    return tmp_path


@pytest.fixture
def config_of(here: Path, run_main: Callable[..., None]) -> Callable[[str], dict]:
    """The config that a line of data options makes."""

    def config(line: str) -> dict:
        run_main("init", "my.yaml", *shlex.split(line))
        return yaml.safe_load((here / "my.yaml").read_text(encoding="utf-8"))

    return config


TABLE = "--data.dataset csv --data.root table.csv --data.label 'kind: of'"
LINES = {
    "csv": TABLE,
    "csv with gaps": TABLE.replace("table", "gaps"),
    "pictures": "--data.dataset image_folder --data.root small",
    "pictures of several sizes": "--data.dataset image_folder --data.root mixed",
    "arrays": "--data.dataset arrays --data.root plain.npz",
    "large numbers": "--data.dataset arrays --data.root large.npz",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_config_runs_as_it_stands_from_another_folder(
    line: str,
    config_of: Callable[[str], dict],
    here: Path,
    run_main: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(line)
    said = capsys.readouterr().out
    assert f"python train.py fit --config {Path('my.yaml')}" in said
    parts = re.match(r"my\.yaml: (\d+) to train, (\d+) to validate, (\d+) to test; ([\d,]+) features, 2 classes", said)
    assert parts is not None
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    few = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    run_main("fit", "--config", here / "my.yaml", *few)
    used = yaml.safe_load(next(Path().rglob("lightning_logs/my/**/config.yaml")).read_text(encoding="utf-8"))
    for group in ("model", "data"):
        assert {name: used[group][name] for name in config[group]} == config[group]


def test_table_without_gaps(config_of: Callable[[str], dict], here: Path) -> None:
    config = config_of(TABLE)
    data = config["data"]
    assert data["root"] == str(here / "table.csv")
    assert data["label"] == "kind: of"
    assert data["ignore"] == ["id", "name"]
    assert data["unknown"] == "zero"
    assert "missing" not in data
    assert "class_weights" not in config["model"]
    text = (here / "my.yaml").read_text(encoding="utf-8")
    assert "# Missing values: none." in text
    assert "# Columns: 2 of numbers" in text
    assert "(data.categorical if they are codes): floor." in text
    assert "garden 2" in text


def test_table_with_gaps_and_a_rare_class(config_of: Callable[[str], dict], here: Path) -> None:
    config = config_of(LINES["csv with gaps"])
    assert config["data"]["missing"] == "mean"
    assert config["model"]["class_weights"] == "balanced"
    text = (here / "my.yaml").read_text(encoding="utf-8")
    assert "# Missing values: length 7." in text
    assert re.search(r"# Training samples by class: a \d+, b \d\.", text)


def test_given_options_are_kept(config_of: Callable[[str], dict]) -> None:
    given = "--data.missing median --data.unknown error --data.ignore '[name]' --data.batch_size 7"
    data = config_of(f"{LINES['csv with gaps']} {given} --data.validation_size 4")["data"]
    kept = {"missing": "median", "ignore": ["name"], "batch_size": 7, "validation_size": 4}
    assert {name: data[name] for name in kept} == kept


@pytest.mark.parametrize(
    ("folder", "size"), [("small", None), ("mixed", [64, 43])], ids=["one small size", "large ones, of two sizes"]
)
def test_size_of_pictures(folder: str, size: list[int] | None, config_of: Callable[[str], dict]) -> None:
    assert config_of(f"--data.dataset image_folder --data.root {folder}")["data"].get("image_size") == size


@pytest.mark.parametrize(("file", "norm"), [("plain", None), ("large", "batch")])
def test_norm_of_large_numbers(file: str, norm: str | None, config_of: Callable[[str], dict]) -> None:
    assert config_of(f"--data.dataset arrays --data.root {file}.npz")["model"].get("norm") == norm


def test_packaged_set(config_of: Callable[[str], dict]) -> None:
    config = config_of("--data.dataset mnist")
    assert config["data"] == {"dataset": "mnist", "batch_size": 128}
    assert config["model"]["hidden"] == [500, 250, 100]
    assert config["trainer"]["max_epochs"] == 15


def test_names_from_files_stay_in_their_comment(config_of: Callable[[str], dict], here: Path) -> None:
    rows = [f'{k % 5},"x {k % 2}\nmodel: {{lr: 9}}"' for k in range(40)]
    (here / "odd.csv").write_text("wide,kind\n" + "\n".join(rows) + "\n", encoding="utf-8")
    config = config_of("--data.dataset csv --data.root odd.csv --data.label kind")
    assert config["model"]["lr"] == 0.003
    assert "x 0 model: {lr: 9}" in (here / "my.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["1e3", "0", "1_000", ".5", "-", "a, [b]: #c", 'it\'s "so"', "true", "2020-01-01", "inf", "~"]
)
def test_columns_of_any_name_can_be_named_in_the_config(name: str, here: Path, run_main: Callable[..., None]) -> None:
    with (here / "odd.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [[f"text {k}", k % 4, "ab"[k % 2]] for k in range(40)]
        csv.writer(file).writerows([[name, f"{name}{name}", "kind"], *rows])
    run_main("init", "my.yaml", "--data.dataset", "csv", "--data.root", "odd.csv", "--data.label", "kind")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DataModule, "data", skip={"seed"})
    parser.add_argument("--config", action="config")
    config = yaml.safe_load((here / "my.yaml").read_text(encoding="utf-8"))
    text = (here / "my.yaml").read_text(encoding="utf-8")
    (here / "data.yaml").write_text(text[text.index("data:") :], encoding="utf-8")
    data = parser.parse_args(["--config", "data.yaml"]).data
    assert data.ignore == config["data"]["ignore"] == [name]
    assert DataModule(**data.as_dict()).data.preprocessing.feature_names == (f"{name}{name}",)


@pytest.mark.parametrize(
    ("write", "numbers", "texts"),
    [
        (lambda k: f"{k % 7},5", 2, 0),
        (lambda k: f"{k % 7} kg", 2, 0),
        (lambda k: f"{k % 7}-{k % 7 + 5}", 1, 1),
        (lambda k: "FN"[k % 2], 1, 1),
        (lambda k: ("yes", "no")[k % 2], 2, 0),
    ],
    ids=["decimal comma", "unit", "range", "no pair", "pair"],
)
def test_numbers_and_texts_are_counted_as_fit_takes_them(
    write: Callable[[int], str], numbers: int, texts: int, config_of: Callable[[str], dict], here: Path
) -> None:
    rows = "".join(f"{k};{write(k)};{k % 5};{'ab'[k % 2]}\n" for k in range(40))
    (here / "odd.csv").write_text(f";it;other;kind\n{rows}", encoding="utf-8")
    config = config_of("--data.dataset csv --data.root odd.csv --data.label kind")
    text = (here / "my.yaml").read_text(encoding="utf-8")
    assert f"# Columns: {numbers} of numbers, standardised" in text
    assert f"{texts} of texts" in " ".join(text.replace("#", "").split())
    assert ("unknown" in config["data"]) == (texts > 0)


def test_replaces_only_when_told(
    config_of: Callable[[str], dict], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "my.yaml").write_text("mine: 1\n")
    with pytest.raises(SystemExit) as caught:
        config_of(TABLE)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: init: my.yaml is there already; --force replaces it\n"
    assert (here / "my.yaml").read_text() == "mine: 1\n"
    assert "mine" not in config_of(f"--force {TABLE}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--data.dataset csv --data.root table.csv", "data.label: got nothing, must be one of the columns of"),
        ("--data.dataset csv --data.root none.csv --data.label a", "data.root: got "),
        ("--data.dataset csv", "data.root: got null, must be the files of data.dataset csv"),
        ("--data.dataset image_folder --data.root elsewhere", "data.root: got "),
        ("--data.dataset novel", "data.dataset: got novel, must be one of mnist, "),
        ("--data.labl kind", "data.labl: there is no such option, did you mean data.label?"),
        ("--data.seed 3", "data.seed: there is no such option"),
        ("--data.batch_size many", "data.batch_size: got many, must be a whole number"),
        ("--data.batch_size 0", "data.batch_size: got 0, must be at least 1"),
        ("--model.lr 1", "model.lr: there is no such option"),
    ],
)
def test_wrong_lines_write_nothing(
    line: str, said: str, config_of: Callable[[str], dict], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    with pytest.raises(SystemExit) as caught:
        config_of(line)
    assert caught.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {said}")
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("name", ["none/my.yaml", "small"])
def test_no_such_place(name: str, here: Path, run_main: Callable[..., None], capsys) -> None:
    with pytest.raises(SystemExit):
        run_main("init", name, "--force", "--data.dataset", "mnist")
    assert capsys.readouterr().err == f"error: init: got {name}, must be a file in an existing folder\n"
