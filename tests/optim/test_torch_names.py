"""What torch's own schedulers, state dicts and options meet in an update rule, against torch.optim."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from mlp_lightning.optim import OPTIMIZERS, SGD, Adam, AdamNorm, AdamW, Muon, NAdam, RMSprop

CYCLES = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=12),
    "one cycle, three phases": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.1, total_steps=12, three_phase=True, base_momentum=0.5, max_momentum=0.7
    ),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=3),
    "cyclic, exponential": lambda o: lr_scheduler.CyclicLR(
        o, base_lr=0.01, max_lr=0.1, step_size_up=2, mode="exp_range", gamma=0.9, base_momentum=0.3
    ),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "one cycle after a rise": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.CosineAnnealingWarmRestarts(o, 4)],
        milestones=[3],
    ),
}
PAIRS = {
    "sgd": (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (Adam, torch.optim.Adam, {}),
    "adam, amsgrad": (Adam, torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    "adamw": (AdamW, torch.optim.AdamW, {}),
    "nadam": (NAdam, torch.optim.NAdam, {}),
    "rmsprop": (RMSprop, torch.optim.RMSprop, {"momentum": 0.5}),
}


def parameter(dtype=torch.float64):
    return nn.Parameter(torch.arange(1.0, 9.0).to(dtype) / 8, requires_grad=False)


def gradients(n=12):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def train(optimizer, p, grads, scheduler=None):
    for grad in grads:
        p.grad = grad.to(p.dtype).clone()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step:UserWarning")
@pytest.mark.parametrize("cycle", CYCLES.values(), ids=CYCLES)
@pytest.mark.parametrize(("ours", "theirs", "options"), PAIRS.values(), ids=PAIRS)
def test_torchs_schedulers_with_their_defaults(float64_by_default, cycle, ours, theirs, options):
    found = []
    for rule in (ours, theirs):
        p = parameter()
        optimizer = rule([p], lr=0.05, **options)
        train(optimizer, p, gradients(), cycle(optimizer))
        found.append((p, optimizer.param_groups[0]))
    (p, group), (expected, expected_group) = found
    torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-12)
    for name in ("lr", "momentum", "betas"):
        assert group.get(name) == expected_group.get(name)


def test_muons_momentum_is_cycled_as_that_of_torch():
    p = parameter()
    optimizer = Muon([p], 0.01, weight_shapes=[(2, 3)])
    matrix = nn.Parameter(parameter()[:6].detach().view(2, 3).clone())
    theirs = torch.optim.Muon([matrix], 0.01)
    schedulers = [CYCLES["one cycle"](o) for o in (optimizer, theirs)]
    momenta = []
    for grad in gradients():
        p.grad, matrix.grad = grad.clone(), grad[:6].view(2, 3).clone()
        for o, scheduler in zip((optimizer, theirs), schedulers, strict=True):
            o.step()
            scheduler.step()
        momenta.append((optimizer.param_groups[0]["momentum"], theirs.param_groups[0]["momentum"]))
    assert all(one == other for one, other in momenta)
    assert len({one for one, _ in momenta}) > 5


def test_adam_norms_first_beta_is_cycled():
    p = parameter()
    optimizer = AdamNorm([p], 0.01, weight_numel=5)
    train(optimizer, p, gradients(3), CYCLES["one cycle"](optimizer))
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    assert 0.85 <= beta1 < 0.95
    assert beta2 == 0.5


@pytest.mark.parametrize("options", [{"beta1": 0.5}, {"betas": (0.5, 0.999)}, {"beta1": 0.5, "beta2": 0.999}])
def test_a_groups_betas_under_either_name(options):
    found = []
    for group in (options, {"betas": (0.5, 0.999)}):
        p = parameter()
        optimizer = Adam([{"params": [p], **group}], 0.1)
        train(optimizer, p, gradients())
        found.append(p)
    assert torch.equal(*found)
    p = parameter()
    train(theirs := torch.optim.Adam([p], 0.1, betas=(0.5, 0.999)), p, gradients())
    assert theirs.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]
    torch.testing.assert_close(found[0], p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "adam_norm"])
def test_state_dicts_from_before_there_were_betas(name):
    settings = {"lr": 0.1, "beta1": 0.6, "beta2": 0.7} | ({"weight_numel": 5} if name == "adam_norm" else {})
    p, q = parameter(), parameter()
    one, other = OPTIMIZERS[name]([p], **settings), OPTIMIZERS[name]([q], **{**settings, "beta1": 0.1})
    train(one, p, gradients()[:5])
    state = copy.deepcopy(one.state_dict())
    (group,) = state["param_groups"]
    group["beta1"], group["beta2"] = group.pop("betas")
    group.pop("decay_biases", None)
    other.load_state_dict(state)
    with torch.no_grad():
        q.copy_(p)
    for optimizer, tensor in ((one, p), (other, q)):
        train(optimizer, tensor, gradients()[5:])
    assert torch.equal(p, q)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_of_torchs_sgd_is_read(momentum):
    p, q = parameter(), parameter()
    theirs = torch.optim.SGD([p], 0.1, momentum=momentum, weight_decay=0.01)
    train(theirs, p, gradients()[:5])
    ours = SGD([q], 1.0)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    with torch.no_grad():
        q.copy_(p)
    for optimizer, tensor in ((theirs, p), (ours, q)):
        train(optimizer, tensor, gradients()[5:])
    torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (Adam, torch.optim.Adam, "of another optimizer: Adam keeps step, first_moment"),
        (AdamW, torch.optim.AdamW, "got exp_avg, exp_avg_sq"),
        (NAdam, torch.optim.NAdam, "of another optimizer: NAdam keeps"),
        (RMSprop, torch.optim.RMSprop, "of another optimizer: RMSprop keeps"),
        (SGD, lambda p, lr: torch.optim.SGD(p, lr, maximize=True), "maximize must be left out, got True"),
        (SGD, lambda p, lr: Adam(p, lr), "of another optimizer: SGD keeps momentum_buffer, got step"),
        (Adam, lambda p, lr: AdamNorm(p, lr, weight_numel=5), "first_moment|shape"),
        (NAdam, lambda p, lr: RMSprop(p, lr, momentum=0.9), "got momentum_buffer"),
    ],
)
def test_state_of_another_optimizer_is_refused(ours, theirs, message):
    p, q = parameter(), parameter()
    other = theirs([p], lr=0.1)
    train(other, p, gradients()[:2])
    optimizer = ours([q], lr=0.1)
    with pytest.raises(ValueError, match=message) as caught:
        optimizer.load_state_dict(other.state_dict())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["state"][0].update(first_moment=torch.zeros(3)),
            r"first_moment must have the shape \(8,\), got \(3,\)",
        ),
        (lambda s: s["state"][0].update(first_moment=[0.0] * 8), "first_moment must be a tensor, got list"),
        (lambda s: s["state"][0].update(step="2"), "step must be a number, got str"),
        (lambda s: s["param_groups"][0].update(lr=-1.0), "lr must be a finite number >= 0, got -1"),
        (lambda s: s["param_groups"][0].update(betas=0.9), "betas must be a pair"),
        (lambda s: s["param_groups"].append(dict(s["param_groups"][0])), "different number of parameter groups"),
        (lambda s: s["param_groups"][0].update(params=[0, 1]), "doesn't match the size"),
    ],
)
def test_damaged_state_is_refused(change, message):
    p = parameter()
    optimizer = Adam([p], lr=0.1)
    train(optimizer, p, gradients()[:2])
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        Adam([parameter()], lr=0.1).load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.int64, torch.bool])
@pytest.mark.parametrize("rule", [SGD, Adam, RMSprop, NAdam])
def test_only_real_parameters_are_taken(rule, dtype):
    with pytest.raises(ValueError, match=f"^params must be real floating-point tensors, got {dtype}"):
        rule([torch.zeros(3, dtype=dtype)], lr=0.1)


@pytest.mark.parametrize("name", ["maximize", "foreach", "fused", "capturable", "differentiable"])
def test_torchs_other_options_are_refused(name):
    with pytest.raises(ValueError, match=f"^{name} must be left out, got True"):
        Adam([{"params": [parameter()], name: True}], lr=0.1)
    with pytest.raises(TypeError, match=name):
        Adam([parameter()], lr=0.1, **{name: True})
    Adam([{"params": [parameter()], name: False}], lr=0.1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"])
def test_a_copy_of_muon_computes_in_the_same_dtype(copied):
    p = parameter(torch.float32)
    optimizer = Muon([p], 0.1, weight_shapes=[(2, 3)])
    optimizer.dtype_of_products = torch.bfloat16
    train(optimizer, p, gradients()[:2])
    twin = copied(optimizer)
    (twin_p,) = twin.param_groups[0]["params"]
    assert twin.dtype_of_products == torch.bfloat16
    for o, tensor in ((optimizer, p), (twin, twin_p)):
        train(o, tensor, gradients()[2:])
    assert torch.equal(p, twin_p)
