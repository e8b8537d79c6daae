import math

import pytest
import torch
from torch import nn

from mlp_lightning.optim import Muon
from mlp_lightning.optim.muon import newton_schulz

SHAPES = [(6, 4), (3, 6), (2, 3)]
NUMEL = 48
REST = 5
# A quintic that settles on 1, unlike Jordan's: value 1, slope 0 and curvature 0 there.
CONVERGENT = (15 / 8, -10 / 8, 3 / 8)
# A few of bfloat16's roundings.
BFLOAT16 = 2**-6

needs_torch_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch < 2.9 has no Muon")


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tensor(dtype=torch.float64):
    return nn.Parameter(draw(NUMEL + REST, dtype=dtype), requires_grad=False)


def split(flat):
    """Copies of the matrices and of the rest."""
    *parts, rest = flat.detach().split([math.prod(shape) for shape in SHAPES] + [REST])
    return [part.reshape(shape).clone() for part, shape in zip(parts, SHAPES, strict=True)], rest.clone()


def iterate(matrix, steps, coefficients):
    rows, columns = matrix.shape
    memory = (torch.empty(rows, columns), torch.empty(rows, rows), torch.empty(rows, rows))
    return newton_schulz(matrix.clone(), steps, coefficients, tuple(part.to(matrix) for part in memory))


def steps_of(optimizer, p, count, options=lambda t: None):
    for t in range(count):
        p.grad = draw(*p.shape, seed=t + 1, dtype=p.dtype)
        options(t)
        optimizer.step()


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (1, 5), (1, 1)], ids=str)
def test_a_convergent_iteration_ends_at_the_nearest_orthogonal_matrix(shape):
    matrix = draw(*shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(iterate(matrix, 60, CONVERGENT), left @ right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 7), (7, 1), (1, 1), (40, 60)], ids=str)
@pytest.mark.parametrize("steps", [1, 5, 9])
def test_acts_on_singular_values_alone(shape, steps):
    matrix = draw(*shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    ours = Muon([torch.zeros(math.prod(shape))], 0.1, [shape]).orthogonalized(matrix, steps)
    torch.testing.assert_close(ours, left @ values.diag() @ right, rtol=1e-10, atol=1e-11)


def test_five_steps_bring_singular_values_near_one():
    left, _, right = torch.linalg.svd(draw(50, 80), full_matrices=False)
    matrix = left @ torch.logspace(0, -1.5, 50, dtype=torch.float64).diag() @ right
    after = torch.linalg.svdvals(Muon([torch.zeros(4000)], 0.1, [(50, 80)]).orthogonalized(matrix, 5))
    assert 0.67 < after.min() <= after.max() < 1.21


@pytest.mark.parametrize("zero", [1.0, 1e-30])
def test_a_gradient_of_zero_or_nearly_so_moves_nothing_far(zero):
    p = tensor()
    before = p.detach().clone()
    optimizer = Muon([p], 0.1, SHAPES, weight_decay=0.0)
    p.grad = torch.zeros_like(p) if zero == 1.0 else torch.full_like(p, zero)
    optimizer.step()
    assert p.isfinite().all()
    torch.testing.assert_close(p.detach(), before, rtol=0, atol=1e-15)


def test_a_rank_of_one_stays_one():
    matrix = draw(6, 1) @ draw(1, 4)
    ours = Muon([torch.zeros(24)], 0.1, [(6, 4)]).orthogonalized(matrix, 5)
    values = torch.linalg.svdvals(ours)
    assert 0.6 < values[0] < 1.21
    assert values[1] < 1e-12


@needs_torch_muon
@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"nesterov": False}, id="no-nesterov"),
        pytest.param({"momentum": 0.0}, id="no-momentum"),
        pytest.param({"weight_decay": 0.0}, id="no-decay"),
        pytest.param({"weight_decay": 0.5, "decay_biases": False}, id="decay-of-weights"),
        pytest.param({"ns_steps": 3}, id="ns_steps-3"),
        pytest.param({"beta1": 0.5, "beta2": 0.7, "eps": 1e-3}, id="biases"),
    ],
)
def test_follows_torch(monkeypatch, options, steps):
    """In float64, where torch's Muon would iterate in bfloat16; the biases beside AdamW's."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda matrix: matrix.clone())
    p = tensor()
    (weights, rest), lr = split(p), 0.02
    steps_of(Muon([p], lr, SHAPES, **options), p, steps)

    theirs = dict(options)
    betas = (theirs.pop("beta1", 0.9), theirs.pop("beta2", 0.999))
    eps, spares = theirs.pop("eps", 1e-8), theirs.pop("decay_biases", True) is False
    weights = [nn.Parameter(weight) for weight in weights]
    rest = nn.Parameter(rest)
    muon = torch.optim.Muon(weights, lr=lr, adjust_lr_fn="match_rms_adamw", **theirs)
    decay = 0.0 if spares else options.get("weight_decay", 0.1)
    adamw = torch.optim.AdamW([rest], lr=lr, betas=betas, eps=eps, weight_decay=decay)
    for t in range(steps):
        grads, rest.grad = split(draw(NUMEL + REST, seed=t + 1))
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad
        muon.step()
        adamw.step()
    ours, ours_rest = split(p)
    torch.testing.assert_close(ours_rest, rest.detach(), rtol=1e-12, atol=1e-12)
    for weight, expected in zip(ours, weights, strict=True):
        torch.testing.assert_close(weight, expected.detach(), rtol=1e-11, atol=1e-11)


def test_steps_are_as_long_as_adamws():
    """Root mean square 0.2 η, whatever the shape, as the singular values are near 1."""
    shapes = [(20, 80), (80, 20), (40, 40)]
    p = nn.Parameter(torch.zeros(4800, dtype=torch.float64), requires_grad=False)
    p.grad = draw(4800)
    Muon([p], 0.01, shapes).step()
    for part in p.split([1600] * 3):
        assert part.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.35)


def test_weights_need_nothing_that_follows_them():
    p = nn.Parameter(draw(NUMEL), requires_grad=False)
    optimizer = Muon([p], 0.1, SHAPES)
    steps_of(optimizer, p, 2)
    assert set(optimizer.state[p]) == {"momentum_buffer"}
    assert p.isfinite().all()


def test_products_of_fewer_bits_lead_the_same_way():
    ends = []
    for dtype in (None, torch.bfloat16):
        p = tensor(torch.float32)
        optimizer = Muon([p], 0.02, SHAPES)
        optimizer.dtype_of_products = dtype
        steps_of(optimizer, p, 5)
        assert optimizer.state[p]["momentum_buffer"].dtype == torch.float32
        ends.append(p.detach())
    error = (ends[0] - ends[1]).norm() / (ends[0] - tensor(torch.float32)).norm()
    assert 0 < error < BFLOAT16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"lr": -0.1}, "lr must be", id="negative-lr"),
        pytest.param({"momentum": 1.0}, "momentum must be", id="momentum-1"),
        pytest.param({"nesterov": 1}, "nesterov must be", id="number-nesterov"),
        pytest.param({"ns_steps": 0}, "ns_steps must be an integer from 1 to 99, got 0", id="no-steps"),
        pytest.param({"ns_steps": 100}, "ns_steps must be an integer from 1 to 99, got 100", id="100-steps"),
        pytest.param({"ns_steps": 2.0}, "ns_steps must be", id="float-steps"),
        pytest.param({"ns_steps": True}, "ns_steps must be", id="bool-steps"),
        pytest.param({"weight_decay": -0.1}, "weight_decay must be", id="negative-decay"),
        pytest.param({"beta2": 1.0}, "beta2 must be", id="beta2-1"),
        pytest.param({"weight_shapes": []}, "weight_shapes must be", id="no-shapes"),
        pytest.param({"weight_shapes": [(3,)]}, "weight_shapes must be", id="one-width"),
        pytest.param({"weight_shapes": [(3, 0)]}, "weight_shapes must be", id="no-width"),
        pytest.param({"weight_shapes": [(6, 9)]}, "params must be exactly one flat .* P >= 54", id="too-many"),
        pytest.param({"params": [torch.zeros(NUMEL), torch.zeros(NUMEL)]}, "params must be exactly one", id="two"),
        pytest.param({"params": [torch.zeros(6, 8)]}, "params must be exactly one", id="not-flat"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Muon(**{"params": [torch.zeros(NUMEL + REST)], "lr": 0.1, "weight_shapes": SHAPES, **options})


def test_a_second_group_is_refused():
    optimizer = Muon([tensor()], 0.1, SHAPES)
    with pytest.raises(ValueError, match=r"^params must be exactly one tensor, got a second group"):
        optimizer.add_param_group({"params": [tensor()]})
