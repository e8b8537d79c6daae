"""The command predict: what it prints and writes, and that nothing is left where it fails."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning.cli import start
from mlp_lightning.commands.predict.command import predict
from mlp_lightning.data.preprocessing import CategoricalColumn, ImagePreprocessing, NumericColumn, TablePreprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.model import load

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def here(tmp_path, monkeypatch, write_checkpoint, digits, digit_checkpoint):
    """A folder with a run of digits, and three of them as pictures."""
    monkeypatch.chdir(tmp_path)
    run = Path("lightning_logs/digits/version_0/checkpoints/best.ckpt")
    run.parent.mkdir(parents=True)
    run.write_bytes(digit_checkpoint.read_bytes())
    Path("scans").mkdir()
    for k, x in enumerate(digits.test_x[:3]):
        Image.fromarray((255 * (1 - x.view(28, 28).numpy())).astype("u1")).resize((99, 99)).save(f"scans/{k}.png")
    return tmp_path


def rows_of(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(line):
    predict(line.split())


def test_prints_a_table_and_writes_every_row(here, capsys):
    run("--ckpt_path best --input scans --output out.csv")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "lightning_logs/digits/version_0/checkpoints/best.ckpt: 784-128-10"
    assert printed[1].split() == ["input", "class", "probability", "next", "2"]
    assert [line.split()[:2] for line in printed[3:6]] == [
        ["scans/0.png", "7"],
        ["scans/1.png", "2"],
        ["scans/2.png", "1"],
    ]
    assert printed[6:] == ["predictions: out.csv"]
    rows = rows_of("out.csv")
    assert list(rows[0]) == [
        *("file", "row", "class", "probability", "class_2", "probability_2", "class_3", "probability_3", "label")
    ]
    assert [(row["file"], row["row"], row["class"], row["label"]) for row in rows] == [
        (f"scans/{k}.png", "", label, "") for k, label in enumerate("721")
    ]
    assert all(
        1 >= float(row["probability"]) >= float(row["probability_2"]) >= float(row["probability_3"]) for row in rows
    )


def test_many_rows_are_cut_on_the_screen_and_whole_in_the_file(here, capsys, digits):
    np.savez("all.npz", x=(digits.test_x[:3000] * 255).round().to(torch.uint8).numpy(), y=digits.test_y[:3000].numpy())
    run("--ckpt_path best --input all.npz --top 1 --output out.csv")
    printed = capsys.readouterr().out
    assert "\n… and 2,980 more of 3,000, see out.csv\n" in printed
    rows = rows_of("out.csv")
    assert list(rows[0]) == ["file", "row", "class", "probability", "label"]
    assert [int(row["row"]) for row in rows] == list(range(3000))
    right = sum(row["class"] == row["label"] for row in rows)
    expected = (load("best").probabilities(digits.test_x[:3000]).argmax(1) == digits.test_y[:3000]).sum()
    assert right == int(expected)
    assert f"accuracy: {right / 3000:.2%}, {right:,} of 3,000 with a label" in printed
    run("--ckpt_path best --input all.npz")
    assert "\n… and 2,980 more of 3,000, --output writes them all\n" in capsys.readouterr().out


def test_a_table_tells_its_accuracy(here, capsys, write_checkpoint):
    kind = TablePreprocessing((NumericColumn("age", 40, 10), CategoricalColumn("city", ("Bonn", "Rome"))), "ill")
    network = MLP([3, 2], init="zeros")
    network.layers[0].weight[1, 0] = 5  # above the mean age: yes
    write_checkpoint(here / "it.ckpt", network, kind, ("no", "yes"))
    Path("a.csv").write_text("ill,city,age\nyes,Rome,60\nno,Bonn,20\nno,Rome,60\n,Rome,20\n")
    run("--ckpt_path it.ckpt --input a.csv --output out.csv")
    assert "accuracy: 66.67%, 2 of 3 with a label" in capsys.readouterr().out
    assert [(row["row"], row["class"], row["label"]) for row in rows_of("out.csv")] == [
        *(("2", "yes", "yes"), ("3", "no", "no"), ("4", "yes", "no"), ("5", "no", ""))
    ]


def test_unreadable_pictures_are_skipped_only_if_asked(here, capsys):
    Path("scans/broken.png").write_text("text")
    Image.new("L", (50, 50)).save("scans/empty.png")
    with pytest.raises(
        UserError, match=r"^2 pictures cannot be read: scans/broken.png: .*; scans/empty.png: .*skip_unr"
    ):
        run("--ckpt_path best --input scans --output out.csv --contact_sheet sheet.png")
    assert not {"out.csv", "sheet.png"} & set(files(here))
    run("--ckpt_path best --input scans --output out.csv --contact_sheet sheet.png --skip_unreadable")
    assert len(rows_of("out.csv")) == 3
    printed = capsys.readouterr().out
    assert "skipped: scans/broken.png: is no picture" in printed
    assert "skipped: scans/empty.png: nothing stands out" in printed


def test_contact_sheet(here):
    run("--ckpt_path best --input scans --contact_sheet sheet.png")
    with Image.open("sheet.png") as sheet:
        assert sheet.width >= 400
        # The pictures are on it, light on black.
        assert (np.asarray(sheet.convert("L")) < 20).mean() > 0.1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--input scans", "predict: the following arguments are required: --ckpt_path"),
        ("--ckpt_path best", "predict: the following arguments are required: --input"),
        ("--ckpt_path best --input", "predict: argument --input: expected at least one argument"),
        ("--ckpt_path none.ckpt --input scans", "--ckpt_path: there is no file none.ckpt"),
        ("--ckpt_path last --input scans", "--ckpt_path: got last, but there is no last.ckpt in lightning_logs"),
        ("--ckpt_path code.ckpt --input scans", "--ckpt_path: code.ckpt is not a readable checkpoint"),
        ("--ckpt_path best --input none.png", "--input: there is no file none.png"),
        ("--ckpt_path best --input lightning_logs", "--input: there is no picture in the folder lightning_logs"),
        ("--ckpt_path best --input scans/0.png late.npy", "late.npy, row 1500, column 3: got 7"),
        ("--ckpt_path best --input scans --top 0", "--top: got 0, must be at least 1"),
        ("--ckpt_path best --input scans --invert maybe", "predict: argument --invert: invalid choice: 'maybe'"),
        ("--ckpt_path best --input scans --center maybe", "predict: argument --center: invalid choice: 'maybe'"),
        ("--ckpt_path best --input scans --output none/out.csv", "--output: got none/out.csv, must be a file in"),
        ("--ckpt_path best --input scans --output scans", "--output: got scans, must be a file in"),
        (
            "--ckpt_path best --input scans --contact_sheet none/s.png",
            "--contact_sheet: got none/s.png, must be a file",
        ),
        ("--ckpt_path small.ckpt --input scans --center true", "--center: got true, must be false for small.ckpt"),
        ("--ckpt_path best --input scans/empty.png --skip_unreadable", "--input: none of the pictures can be read"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(here, line, message, capsys, write_checkpoint):
    late = np.zeros((2000, 784), "f4")
    late[1500, 3] = 7
    np.save("late.npy", late)
    Path("scans/empty.png").write_bytes(b"") if "empty" in line else None
    write_checkpoint(here / "small.ckpt", MLP([6, 2]), ImagePreprocessing(2, 3), ("no", "yes"))
    torch.save({"state_dict": Code()}, "code.ckpt")
    before = files(here)
    with pytest.raises(SystemExit) as caught:
        start.main(["predict", *line.split(), *(("--output", "out.csv") if "--output" not in line else ())])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert files(here) == before


class Code:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_lightning_is_not_imported(here):
    code = "import sys; from mlp_lightning.cli.start import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, "predict", "--ckpt_path", "best", "--input", "scans"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    modules = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "torch" in modules
    assert not modules & {"lightning", "torchmetrics", "torchvision", "matplotlib", "seaborn", "pandas", "tensorboard"}
