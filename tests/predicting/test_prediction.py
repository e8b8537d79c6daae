"""``load`` and ``predict`` from Python, as the README shows them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_lightning import Prediction, load, predict
from mlp_lightning.data.preprocessing import ArrayPreprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.predicting.prediction import check_readable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(digit_checkpoint):
    return load(digit_checkpoint)


def test_predictions_are_the_largest_probabilities(model, digits):
    expected = model.probabilities(digits.test_x[:50])
    for prediction, row in zip(predict(model, digits.test_x[:50]), expected, strict=True):
        order = row.argsort(descending=True)[:3]
        assert isinstance(prediction, Prediction)
        assert prediction.top == tuple((str(int(k)), float(row[k])) for k in order)
        assert (prediction.label, prediction.probability) == prediction.top[0]
        assert prediction.source == ""


def test_outputs_that_are_not_finite_are_no_prediction(write_checkpoint, tmp_path):
    network = MLP([2, 3, 2])
    network.flat.detach().fill_(1e30)
    write_checkpoint(tmp_path / "it.ckpt", network, ArrayPreprocessing(2), ("a", "b"))
    rows = np.array([[0, 0], [1e38, 1e38]], "f4")
    with pytest.raises(UserError, match=r"^sample \d: the network's outputs are not finite"):
        predict(load(tmp_path / "it.ckpt"), rows)


def test_plain_files_are_predicted_as_the_arrays_they_hold(model, digits, tmp_path):
    """Bit for bit, where nothing is centred."""
    images = (digits.test_x[:30] * 255).round().to(torch.uint8).view(-1, 28, 28).numpy()
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{k:02}.png")
    from_files = predict(model, tmp_path, center=False)
    assert [prediction[:3] for prediction in from_files] == [row[:3] for row in predict(model, digits.test_x[:30])]
    assert [Path(prediction.source).name for prediction in from_files] == [f"{k:02}.png" for k in range(30)]


def test_dark_digits_on_light_paper(model, digits):
    images = [
        Image.fromarray((255 - 255 * x.view(28, 28).numpy()).astype("u1")).resize((90, 90)) for x in digits.test_x[:20]
    ]
    assert [p.label for p in predict(model, images)] == [p.label for p in predict(model, digits.test_x[:20])]
    as_they_are = predict(model, images, invert="never", center=False)
    assert [p.label for p in as_they_are] != [p.label for p in predict(model, images)]


def test_top_is_at_most_the_number_of_classes(model, digits):
    assert [len(predict(model, digits.test_x[:1], top=top)[0].top) for top in (1, 10, 99)] == [1, 10, 10]
    with pytest.raises(UserError, match=r"^top: got 0, must be at least 1$"):
        predict(model, digits.test_x[:1], top=0)


def test_an_unreadable_picture_is_an_error(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.png: the file is empty$"):
        predict(model, tmp_path)


def test_many_unreadable_pictures_are_counted():
    check_readable([])
    with pytest.raises(UserError, match=r"^7 pictures cannot be read: 0; 1; 2; 3; 4; and 2 more, sorry$"):
        check_readable([str(k) for k in range(7)], ", sorry")


def test_the_readme_example_runs(digit_checkpoint, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if "from mlp_lightning import load, predict" in block]
    monkeypatch.chdir(digit_checkpoint.parents[4])
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd() / "readme"))
    namespace: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["accuracy"] > 0.95
    assert re.match(r"7 \d+\.\d% \(\('7', ", capsys.readouterr().out)


def test_arrays_and_tensors_are_the_same_samples(model):
    first = predict(model, np.zeros((2, 784), "f4"))[0]
    assert first == predict(model, torch.zeros(2, 784))[0]
    # A sample by itself goes through other products, which round otherwise.
    alone = predict(model, torch.zeros(784))[0]
    assert (alone.label, alone.probability) == (first.label, pytest.approx(first.probability, rel=1e-5))
