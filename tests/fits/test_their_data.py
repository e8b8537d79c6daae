"""From files to metrics, predictions and an exported model that is loaded again, by command lines alone."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning.data.tabular.tables import read_table
from mlp_lightning.predicting.model import load

RNG = np.random.default_rng(0)
CLASSES = ("cold", "warm")


def table(folder):
    """A table for the training, and one of the same columns to predict."""
    for name, n in (("train", 120), ("new", 30)):
        rows = [[f"{k % 2 + RNG.normal() / 5:.3f}", ("blue", "red")[k % 2], CLASSES[k % 2]] for k in range(n)]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["heat", "colour", "feeling"], *rows])
    return folder / "train.csv", folder / "new.csv", [row[-1] for row in rows]


def pictures(folder):
    """Dark and light pictures for the training, and others in one folder to predict."""
    for name, n in (("train", 60), ("new", 20)):
        for k in range(n):
            place = folder / name / (CLASSES[k % 2] if name == "train" else "")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((RNG.integers(0, 70, (6, 5)) + 180 * (k % 2)).astype("u1")).save(place / f"{k:02}.png")
    return folder / "train", folder / "new", [CLASSES[k % 2] for k in range(20)]


KINDS = {
    "csv": (table, ("--data.label", "feeling")),
    "image_folder": (pictures, ()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_to_metrics_to_predictions_to_an_export(kind, tmp_path, run_main):
    make, options = KINDS[kind]
    train, new, expected = make(tmp_path)
    run_main(
        *("fit", "--data.dataset", kind, "--data.root", train, *options, "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--trainer.max_epochs", 15, "--trainer.log_every_n_steps", 1),
        *("--trainer.default_root_dir", tmp_path, "--model.hidden", "[8]", "--model.lr", 0.02),
        # Those of the last epoch, which last.ckpt has.
        *("--test", "last"),
    )
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    metrics = json.loads((checkpoint.parent.parent / "metrics.json").read_text())
    assert metrics["test/accuracy"] == 1
    assert set(metrics["test/class_accuracy"]) == set(CLASSES)

    run_main("predict", "--ckpt_path", checkpoint, "--input", new, "--output", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        predicted = [next(cell for cell in row if cell in CLASSES) for row in list(csv.reader(file))[1:]]
    assert predicted == expected

    run_main("export", "--ckpt_path", checkpoint, "--format", "torch", "--output", tmp_path / "model.pt")
    model = load(checkpoint)
    plain = torch.nn.Sequential(torch.nn.Linear(model.network.sizes[0], 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    plain.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    if kind == "csv":
        x = model.preprocessing.rows(read_table(new))
    else:
        x = np.stack([np.asarray(Image.open(path)).reshape(-1) for path in sorted(new.iterdir())]).astype("f4") / 255
    classes = plain(torch.from_numpy(x)).argmax(1)
    assert [model.class_names[k] for k in classes] == expected
