"""Cells of the files that predict writes, as a spreadsheet opens them."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mlp_lightning.commands.inert import inert
from mlp_lightning.commands.predict.results import Results
from mlp_lightning.data.preprocessing import ArrayPreprocessing
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.inputs.part import Part
from mlp_lightning.predicting.model import load

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+SUM(1)",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "＋1",
    "－1",
    "＠x",
    "-",
    "=",
    "+1-1",
]
HARMLESS = ["", "plain", "1", "-1", "+1.5", "-.5e-3", "+2E10", "-3.", "a=b", "'tis", "http://x", "−1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text):
    assert inert(text) == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_and_other_texts_stay(text):
    assert inert(text) == text


def test_no_cell_of_the_predictions_is_run(tmp_path, write_checkpoint):
    path = write_checkpoint(tmp_path / "it.ckpt", MLP([2, 3]), ArrayPreprocessing(2), ("=1+1", "@x", "-1"))
    model = load(path)

    part = Part(x=torch.zeros(2, 2), files=["=a.png", "-b.png"], rows=[0, None], labels=["+x", None])
    reader = SimpleNamespace(parts=lambda inputs: [part])
    file = io.StringIO()
    Results(model, 3, sheet=False).take(reader, [], file)
    rows = list(csv.reader(io.StringIO(file.getvalue())))
    texts = {cell for row in rows[1:] for cell in row}
    assert {"'=1+1", "'@x", "-1", "'=a.png", "'-b.png", "'+x"} <= texts
    for cell in texts:
        assert cell[:1] not in "=+@\t\r" or not cell
        assert cell[:1] != "-" or np.isfinite(float(cell))
