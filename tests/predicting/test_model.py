"""Checkpoints as models: the same probabilities as plain torch layers with the weights that were evaluated."""

import os

import pytest
import torch

from mlp_lightning.data.preprocessing import ArrayPreprocessing, ImagePreprocessing
from mlp_lightning.errors import UserError
from mlp_lightning.nn import MLP
from mlp_lightning.predicting import model as model_module
from mlp_lightning.predicting.model import load

NAMES = ("a", "b", "c")


def random_network(norm="none", dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = MLP([6, 8, 5, 3], "tanh", norm=norm, generator=generator, dtype=dtype)
    network.flat += 0.1 * torch.randn(network.flat.shape, generator=generator).to(dtype)
    if network.running is not None:
        network.running += torch.rand(network.running.shape, generator=generator).to(dtype)
    return network


def plain(network):
    """The same in torch's own layers."""
    state, layers = network.state_dict(), []
    norms = {"none": None, "batch": torch.nn.BatchNorm1d, "layer": torch.nn.LayerNorm}
    for k, (fan_in, fan_out) in enumerate(zip(network.sizes[:-1], network.sizes[1:], strict=True)):
        linear = torch.nn.Linear(fan_in, fan_out)
        linear.load_state_dict({name: state[f"layers.{k}.{name}"] for name in ("weight", "bias")})
        layers.append(linear)
        if k == len(network.sizes) - 2:
            break
        if norms[network.norm] is not None:
            norm = norms[network.norm](fan_out)
            held = {name.rpartition(".")[2]: value for name, value in state.items() if name.startswith(f"norms.{k}.")}
            norm.load_state_dict(held, strict=False)
            layers.append(norm)
        layers.append(torch.nn.Tanh())
    return torch.nn.Sequential(*layers).eval()


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_probabilities_are_those_of_plain_layers(norm, tmp_path, write_checkpoint):
    network = random_network(norm)
    path = write_checkpoint(tmp_path / "it.ckpt", network, ArrayPreprocessing(6), NAMES)
    model, x = load(path), torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    expected = plain(network)(x).softmax(1)
    torch.testing.assert_close(model.probabilities(x), expected)
    assert not model.probabilities(x).requires_grad
    assert (model.class_names, model.image_shape, model.centred, model.path) == (NAMES, (), False, path)


def test_hidden_activations(tmp_path, write_checkpoint):
    network = random_network()
    model = load(write_checkpoint(tmp_path / "it.ckpt", network, ArrayPreprocessing(6), NAMES))
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    activations = [x]
    for layer in plain(network):
        activations.append(layer(activations[-1]))
    for given, expected in zip(model.hidden(x), activations[2:-1:2], strict=True):
        torch.testing.assert_close(given, expected)


def test_a_million_rows_need_no_million_rows_of_activations(tmp_path, write_checkpoint, monkeypatch):
    monkeypatch.setattr(model_module, "BATCH_SIZE", 10)
    model = load(write_checkpoint(tmp_path / "it.ckpt", random_network(), ArrayPreprocessing(6), NAMES))
    seen, forward = [], model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda x: (seen.append(len(x)), forward(x))[1])
    x = torch.randn(34, 6)
    assert model.probabilities(x).shape == (34, 3)
    assert seen == [10, 10, 10, 4]


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_averaged_weights_are_what_predicts(averaging, tmp_path, write_checkpoint):
    average, raw = random_network("batch"), random_network("batch", seed=1)
    path = write_checkpoint(tmp_path / "it.ckpt", average, ArrayPreprocessing(6), NAMES, averaging=averaging)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] |= {f"network.{name}": value for name, value in raw.state_dict().items()}
    torch.save(checkpoint, path)
    loaded = load(path).network
    assert torch.equal(loaded.flat, average.flat)
    assert torch.equal(loaded.running, average.running)


@pytest.mark.parametrize(
    ("trained", "loaded"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_no_weight_is_rounded(trained, loaded, tmp_path, write_checkpoint):
    network = random_network(dtype=trained)
    model = load(write_checkpoint(tmp_path / "it.ckpt", network, ArrayPreprocessing(6), NAMES))
    assert model.network.flat.dtype == loaded
    assert torch.equal(model.network.flat, network.flat.to(loaded))


@pytest.mark.parametrize("x", [torch.zeros(6), torch.zeros(2, 5), torch.zeros(2, 6, dtype=torch.uint8)])
def test_other_inputs_are_refused(x, tmp_path, write_checkpoint):
    model = load(write_checkpoint(tmp_path / "it.ckpt", random_network(), ArrayPreprocessing(6), NAMES))
    with pytest.raises(ValueError, match=r"^x must be \(B, 6\), floating-point, got "):
        model.probabilities(x)


def test_models_of_mnist_centre_their_pictures(digit_checkpoint):
    model = load(digit_checkpoint)
    assert (model.centred, model.image_shape, model.class_names) == (True, (28, 28), tuple("0123456789"))


class Code:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def change(path, **values):
    checkpoint = torch.load(path, weights_only=True)
    checkpoint.update(values)
    torch.save({name: value for name, value in checkpoint.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": None, "datamodule_hyper_parameters": {"dataset": "kmnist"}}, "older version"),
        ({"data": None}, r"widths \[6, 8, 5, 3\], but its data 784 features and 10 classes"),
        (
            {"data": {"class_names": ["a"], "preprocessing": {"kind": "array", "n_features": 6}}},
            "6 features and 1 classes",
        ),
        (
            {"data": {"class_names": ["a"], "preprocessing": {"kind": "sound"}}},
            "kind is 'sound', must be one of image, array, table",
        ),
        ({"data": {"class_names": ["a"], "preprocessing": {"kind": "image"}}}, "preprocessing has no height"),
        ({"data": {"class_names": ["a"]}}, "data has no preprocessing"),
        ({"sizes": [6, 90, 5, 3]}, "ask for more weights than it holds"),
        ({"sizes": [6, 9, 5, 3]}, "does not fit this version"),
        ({"sizes": 3}, "sizes is 3, must be a list"),
        ({"hyper_parameters": {"activation": "step"}}, "does not fit this version.*step"),
        ({"hyper_parameters": {}}, "does not fit this version"),
        ({"hyper_parameters": {"activation": "tanh", "averaging": "ema"}}, "does not fit this version"),
        ({"norm": "batch"}, "does not fit this version"),
        ({"state_dict": {}}, "ask for more weights than it holds"),
        ({"window": None}, "has no window"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(values, message, tmp_path, write_checkpoint):
    path = write_checkpoint(tmp_path / "it.ckpt", random_network(), ArrayPreprocessing(6), NAMES)
    change(path, **values)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"load: {path}")


def test_code_is_not_run(tmp_path, write_checkpoint):
    path = write_checkpoint(tmp_path / "it.ckpt", random_network(), ImagePreprocessing(2, 3), NAMES)
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, "extra": Code(str(tmp_path / "trace"))}, path)
    with pytest.raises(UserError, match="carries code, which is never run"):
        load(path)
    assert not (tmp_path / "trace").exists()
