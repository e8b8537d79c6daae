"""Against the notebook's recurrence, entry by entry in plain Python numbers over a list of layers."""

import math
import random

import pytest
import torch
from torch import nn

from mlp_lightning.optim import AdamNorm

TOLERANCE = 1e-13
FLOAT32_TOLERANCE = 1e-4
LAYERS = [((3, 4), 3), ((2, 3), 2), ((1, 2), 1)]
WEIGHT_NUMEL = sum(rows * columns for (rows, columns), _ in LAYERS)


def random_layers(rng):
    """A list of (W, b) as nested lists."""
    return [
        ([[rng.gauss(0, 1) for _ in range(columns)] for _ in range(rows)], [rng.gauss(0, 1) for _ in range(n)])
        for (rows, columns), n in LAYERS
    ]


def flatten(layers):
    """All weights, then all biases."""
    weights = [w for W, _ in layers for row in W for w in row]
    return torch.tensor(weights + [x for _, b in layers for x in b], dtype=torch.float64)


def notebook_adam(layers, gradients, lr, beta1, beta2, eps):
    """The notebook's optimizer, as it walks over layers and entries; changes ``layers`` and returns them."""
    first = [([[0.0] * len(row) for row in W], [0.0] * len(b)) for W, b in layers]
    second = 0.0
    for step in gradients:
        total = 0.0
        for dW, _ in step:
            for row in dW:
                for g in row:
                    total += g * g
        second = beta2 * second + (1 - beta2) * total
        for (W, b), (mW, mb), (dW, db) in zip(layers, first, step, strict=True):
            for i, row in enumerate(dW):
                for j, g in enumerate(row):
                    mW[i][j] = beta1 * mW[i][j] + (1 - beta1) * g
                    W[i][j] = W[i][j] - lr / math.sqrt(second + eps) * mW[i][j]
            for i, g in enumerate(db):
                mb[i] = beta1 * mb[i] + (1 - beta1) * g
                b[i] = b[i] - lr / math.sqrt(second + eps) * mb[i]
    return layers


def flat_parameter(values):
    return nn.Parameter(values.clone(), requires_grad=False)


def run(start, gradients, **options):
    p = flat_parameter(start)
    optimizer = AdamNorm([p], **options)
    for grad in gradients:
        p.grad = grad
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(torch.float64, TOLERANCE, id="fp64"), pytest.param(torch.float32, FLOAT32_TOLERANCE, id="fp32")],
)
@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"beta1": 0.0}, id="beta1-0"),
        pytest.param({"beta2": 0.0}, id="beta2-0"),
        pytest.param({"beta1": 0.5, "beta2": 0.999}, id="other-betas"),
        pytest.param({"eps": 3.0}, id="large-eps"),
    ],
)
def test_follows_the_notebook(options, steps, dtype, tolerance):
    rng = random.Random(0)
    layers = random_layers(rng)
    gradients = [random_layers(rng) for _ in range(steps)]
    ours = run(
        flatten(layers).to(dtype),
        [flatten(g).to(dtype) for g in gradients],
        lr=0.01,
        weight_numel=WEIGHT_NUMEL,
        **options,
    )
    settings = {"beta1": 0.9, "beta2": 0.5, "eps": 1e-8, **options}
    expected = flatten(notebook_adam(layers, gradients, 0.01, **settings))
    torch.testing.assert_close(ours, expected.to(dtype), rtol=tolerance, atol=tolerance)


def test_biases_do_not_count_in_the_second_moment():
    grad = torch.tensor([3.0, 4.0, 100.0], dtype=torch.float64)
    p = run(torch.zeros(3, dtype=torch.float64), [grad], lr=1.0, weight_numel=2, beta1=0.0, beta2=0.0, eps=0.0)
    torch.testing.assert_close(p, torch.tensor([-0.6, -0.8, -20.0], dtype=torch.float64))


def test_scale_of_the_loss_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    gradients = list(torch.randn(20, 9, generator=generator, dtype=torch.float64))
    start = torch.zeros(9, dtype=torch.float64)
    options = {"lr": 0.1, "weight_numel": 6, "eps": 0.0}
    summed = run(start, [64 * g for g in gradients], **options)
    torch.testing.assert_close(summed, run(start, gradients, **options), rtol=TOLERANCE, atol=TOLERANCE)


def test_second_moment_is_one_number_on_the_device():
    p = flat_parameter(torch.ones(5))
    optimizer = AdamNorm([p], 0.1, 3)
    p.grad = torch.ones(5)
    optimizer.step()
    second = optimizer.state[p]["second_moment"]
    assert (second.shape, second.dtype, second.device) == ((), p.dtype, p.device)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"lr": -0.1}, "lr must be", id="negative-lr"),
        pytest.param({"lr": float("nan")}, "lr must be", id="nan-lr"),
        pytest.param({"beta1": 1.0}, "beta1 must be", id="beta1-1"),
        pytest.param({"beta2": True}, "beta2 must be", id="bool-beta2"),
        pytest.param({"eps": -1.0}, "eps must be", id="negative-eps"),
        pytest.param({"weight_numel": 0}, "weight_numel must be", id="no-weights"),
        pytest.param({"weight_numel": 2.0}, "weight_numel must be", id="float-weight-numel"),
        pytest.param({"weight_numel": True}, "weight_numel must be", id="bool-weight-numel"),
        pytest.param({"weight_numel": 6}, "weight_numel must be at most 5", id="more-weights-than-entries"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        AdamNorm([flat_parameter(torch.zeros(5))], **{"lr": 0.1, "weight_numel": 5, **options})


@pytest.mark.parametrize(
    "shapes",
    [pytest.param([(3,), (3,)], id="two"), pytest.param([(3, 3)], id="matrix"), pytest.param([()], id="scalar")],
)
def test_takes_one_flat_tensor(shapes):
    with pytest.raises(ValueError, match=r"^params must be exactly one flat tensor"):
        AdamNorm([flat_parameter(torch.zeros(shape)) for shape in shapes], 0.1, 1)


def test_takes_one_group():
    optimizer = AdamNorm([flat_parameter(torch.zeros(3))], 0.1, 3)
    with pytest.raises(ValueError, match=r"^params must be exactly one tensor"):
        optimizer.add_param_group({"params": [flat_parameter(torch.zeros(3))]})
    assert len(optimizer.param_groups) == 1
