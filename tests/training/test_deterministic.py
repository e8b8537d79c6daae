"""With ``trainer.deterministic`` the same training gives the same bits again, in spite of everything that is drawn."""

import pytest
import torch

from mlp_lightning.data.images.deform_options import DeformOptions

MODEL = {
    "optimizer": "adam",
    "lr": 0.01,
    "norm": "batch",
    "dropout": 0.3,
    "input_dropout": 0.1,
    "averaging": "ema",
    "ema_decay": 0.8,
    "vat": 0.5,
}
DATA = {"mixup": 0.4, "deform": DeformOptions(elastic=0.5, sigma=1.0, rotation=20, shift=0.5, noise=0.1, cutout=1)}


@pytest.fixture
def bits(fit, monkeypatch):
    """Weights, averages, statistics, curves and results of one training."""
    # Lightning sets it for CUDA, in the environment.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")

    def of(**model):
        run = fit({**MODEL, **model}, DATA, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        return run.module.state_dict(), run.module.curves.history, run.module.results

    yield of
    torch.use_deterministic_algorithms(False)


def test_the_same_training_twice_gives_the_same_bits(bits):
    (weights, *figures), (again, *figures_again), (other, *_) = bits(), bits(), bits(seed=1)
    assert figures == figures_again
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not any(torch.equal(weights[name], other[name]) for name in weights if weights[name].is_floating_point())
