"""What a test reports of deformed copies, against NumPy on the outputs of each copy."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from mlp_lightning.data.images.deform_options import DeformOptions

COPIES = 3


@pytest.fixture(params=["mse", "cross_entropy"])
def tested(request, fit, dataset):
    """The kind of loss, what the test reported, and each copy's outputs ``(COPIES, N, K)``."""
    deform = DeformOptions(shift=1.0, rotation=20.0)
    data = {"deform": deform, "test_deformations": COPIES}
    run = fit({"loss": request.param, "optimizer": "adam", "lr": 0.02}, data, max_epochs=4)
    run.trainer.test(run.module, run.data, verbose=False)
    (batch,) = run.data.test_dataloader()
    with torch.inference_mode():
        outputs = [run.module(copy).double() for copy in run.data.test_copies(batch, 0)]
    return request.param, run.module.results, torch.stack(outputs).numpy()


def test_the_loss_is_that_of_the_mean_prediction(tested, dataset):
    loss, found, outputs = tested
    y = dataset.test_y.numpy()
    if loss == "mse":
        mean = outputs.mean(0)
        expected = mean_squared_error(np.eye(4)[y], mean)
    else:
        shares = np.exp(outputs) / np.exp(outputs).sum(2, keepdims=True)
        mean = shares.prod(0) ** (1 / COPIES)
        mean /= mean.sum(1, keepdims=True)
        expected = log_loss(y, mean, labels=range(4))
    assert found["test/deformed_loss"] == pytest.approx(expected, rel=1e-5)
    assert found["test/deformed_accuracy"] == pytest.approx(accuracy_score(y, mean.argmax(1)))


def test_copies_differ(tested):
    _, _, outputs = tested
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
