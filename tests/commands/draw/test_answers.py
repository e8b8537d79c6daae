import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mlp_lightning.commands.draw.answers import SIDE, Answers
from mlp_lightning.data.images.digit_pictures import mnist_picture
from mlp_lightning.data.preprocessing import ArrayPreprocessing, ImagePreprocessing, TablePreprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.predicting.model import Model

MakeModel = Callable[..., Model]
ROUNDED = 0.6e-4


def test_description_is_what_the_page_needs(make_model: MakeModel) -> None:
    description = Answers(make_model(activation="tanh", norm="layer")).description()
    assert description == {
        "name": "relu/version_0/best.ckpt",
        "class_names": list("0123456789"),
        "height": 28,
        "width": 28,
        "centred": True,
        "side": SIDE,
        "sizes": [784, 30, 12, 10],
        "activation": "tanh",
        "norm": "layer",
        "parameters": 784 * 30 + 30 * 12 + 12 * 10 + 52 + 2 * 42,
    }
    json.dumps(description)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_answer_is_the_models_own(norm: str, make_model: MakeModel, drawing: np.ndarray) -> None:
    model = make_model(norm=norm)
    answer = Answers(model).predict(drawing.tobytes())
    assert set(answer) == {"probabilities", "logits", "hidden", "picture"}
    x = torch.from_numpy(mnist_picture(drawing.astype(np.float32) / 255, invert="never")).reshape(1, -1)
    torch.testing.assert_close(torch.tensor([answer["picture"]]), x, atol=ROUNDED, rtol=0)
    torch.testing.assert_close(torch.tensor([answer["probabilities"]]), model.probabilities(x))
    assert [len(a) for a in answer["hidden"]] == [30, 12]
    for a, expected in zip(answer["hidden"], model.hidden(x), strict=True):
        torch.testing.assert_close(torch.tensor([a]), expected, atol=ROUNDED, rtol=0)
    softmax = torch.softmax(torch.tensor(answer["logits"]), 0)
    torch.testing.assert_close(softmax, torch.tensor(answer["probabilities"]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("towards", [0, 9])
def test_gradient_towards_a_class_is_autograds(
    towards: int, dtype: torch.dtype, make_model: MakeModel, drawing: np.ndarray
) -> None:
    model = make_model(activation="tanh", dtype=dtype)
    answer = Answers(model).predict(drawing.tobytes(), towards)
    assert answer["towards"]["class"] == towards
    picture = mnist_picture(drawing.astype(np.float32) / 255, invert="never")
    x = torch.from_numpy(picture).to(dtype).reshape(1, -1).requires_grad_()
    a = x
    for k, layer in enumerate(model.network.layers):
        z = F.linear(a, layer.weight, layer.bias)
        a = torch.tanh(z) if k < 2 else z
    torch.log_softmax(a, 1)[0, towards].backward()
    assert x.grad is not None
    expected = (x.grad / x.grad.abs().max()).flatten()
    torch.testing.assert_close(torch.tensor(answer["towards"]["gradient"], dtype=dtype), expected, atol=2e-4, rtol=0)


def test_no_gradient_is_no_error(make_model: MakeModel, drawing: np.ndarray) -> None:
    """A network that is dead gives the same to all."""
    model = make_model()
    model.network.flat.zero_()
    answer = Answers(model).predict(drawing.tobytes(), 3)
    assert answer["probabilities"] == pytest.approx([0.1] * 10)
    assert not any(answer["towards"]["gradient"])


def test_pictures_of_another_kind_fill_their_frame(make_model: MakeModel, drawing: np.ndarray) -> None:
    model = make_model((7 * 14, 10), ImagePreprocessing(7, 14), centred=False)
    answer = Answers(model).predict(drawing.tobytes(), 0)
    picture = torch.tensor(answer["picture"]).reshape(7, 14)
    blocks = torch.from_numpy(drawing / 255.0).reshape(7, 20, 14, 10).mean((1, 3))
    assert (picture - blocks).abs().max() < 0.25
    assert picture.mean() == pytest.approx(blocks.mean().item(), abs=0.01)
    assert answer["hidden"] == []


def test_weights_are_those_of_the_unit(make_model: MakeModel) -> None:
    model = make_model()
    answers = Answers(model)
    for layer, unit in ((1, 0), (1, 29), (2, 11), (3, 9)):
        expected = model.network.layers[layer - 1].weight[unit]
        torch.testing.assert_close(torch.tensor(answers.weights(layer, unit)), expected, atol=ROUNDED, rtol=0)


@pytest.mark.parametrize(("layer", "unit"), [(0, 0), (4, 0), (1, 30), (1, -1), (-1, 0)])
def test_no_such_unit(layer: int, unit: int, make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=r"^(layer|unit): got -?\d+, must be in "):
        Answers(make_model()).weights(layer, unit)


@pytest.mark.parametrize(
    ("length", "towards", "said"),
    [
        (0, None, "drawing: got 0 bytes, must be 19600"),
        (SIDE**2 - 1, None, "drawing: got 19599 bytes"),
        (SIDE**2, 10, "towards: got 10, must be in 0 … 9"),
        (SIDE**2, -1, "towards: got -1, must be in 0 … 9"),
    ],
)
def test_wrong_drawings(length: int, towards: int | None, said: str, make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=said):
        Answers(make_model()).predict(bytes(range(256))[:1] * length, towards)


@pytest.mark.parametrize("grey", [0, 128, 255], ids=["paper", "grey", "ink"])
def test_nothing_drawn(grey: int, make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="the drawing: nothing stands out"):
        Answers(make_model()).predict(bytes([grey]) * SIDE**2)


def test_network_that_diverged(make_model: MakeModel, drawing: np.ndarray) -> None:
    model = make_model()
    model.network.flat[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        Answers(model).predict(drawing.tobytes())


@pytest.mark.parametrize(
    ("preprocessing", "said"),
    [
        (ImagePreprocessing(2, 2, 3), "was trained on colour images, must be grey images"),
        (TablePreprocessing(()), r"was trained on no images \(data of the kind table\)"),
        (ArrayPreprocessing(12), r"was trained on no images \(data of the kind array\)"),
    ],
    ids=["colour", "table", "array"],
)
def test_models_that_see_no_grey_images(preprocessing, said: str, make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=rf"^--ckpt_path: {Path('lightning_logs')}.*{said}"):
        Answers(make_model((12, 10), preprocessing))
