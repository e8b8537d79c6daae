"""What holds for every update rule."""

import copy
import inspect
import io

import pytest
import torch
from fixtures.counterparts import TORCH_RULES
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mlp_lightning.optim import OPTIMIZERS, SGD, Adam, AdamW, cosine


def takes(name, option):
    return option in inspect.signature(OPTIMIZERS[name]).parameters


# A rule and its options, under the names of ``model.``, which are its own.
OPTIONS = {
    id: (row.options["optimizer"], {name: value for name, value in row.options.items() if name != "optimizer"})
    for id, row in TORCH_RULES.items()
}
RULES = [
    *(pytest.param(*row, id=id) for id, row in OPTIONS.items()),
    *(
        pytest.param(
            name, {**options, "weight_decay": 0.1, "decay_biases": False, "weight_numel": 5}, id=f"{id}, of weights"
        )
        for id, (name, options) in OPTIONS.items()
    ),
    pytest.param("muon", {"weight_shapes": [(2, 3)]}, id="muon"),
    pytest.param("muon", {"weight_shapes": [(3, 1), (1, 2)], "nesterov": False}, id="muon-plain"),
    pytest.param("adam_norm", {"weight_numel": 5}, id="adam_norm"),
]
MANY_TENSORS = [row for row in RULES if not {"weight_numel", "weight_shapes"} & set(row.values[1])]
NUMEL = 8


def parameter(dtype=torch.float32, device="cpu", numel=NUMEL):
    generator = torch.Generator().manual_seed(1)
    return nn.Parameter(torch.randn(numel, generator=generator).to(device, dtype), requires_grad=False)


def gradients(count, dtype=torch.float32):
    return torch.randn(count, NUMEL, generator=torch.Generator().manual_seed(2)).to(dtype)


def take_steps(optimizer, p, grads):
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_every_rule_has_rows():
    assert {row.values[0] for row in RULES} == set(OPTIMIZERS)


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("id", TORCH_RULES)
def test_follows_its_counterpart(float64_by_default, assert_same_path, id, steps):
    (name, options), (_, reference, theirs) = OPTIONS[id], TORCH_RULES[id]
    assert_same_path(
        lambda p: OPTIMIZERS[name](p, 0.05, **options), lambda p: reference(p, 0.05, **theirs), steps, 1e-11
    )


BAD = {"lr": -0.1, "beta1": 1.0, "beta2": -0.1, "weight_decay": -0.1, "eps": -1e-8}


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in OPTIMIZERS for option in BAD if takes(name, option)]
)
def test_options_out_of_range(name, option):
    needed = {"muon": {"weight_shapes": [(2, 3)]}, "adam_norm": {"weight_numel": 5}}.get(name, {})
    with pytest.raises(ValueError, match=f"^{option} must be"):
        OPTIMIZERS[name]([parameter()], **{"lr": 0.1, **needed, option: BAD[option]})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_dtype_is_kept(name, options, dtype):
    p = parameter(dtype)
    optimizer = OPTIMIZERS[name]([p], lr=0.01, **options)
    take_steps(optimizer, p, gradients(3, dtype))
    assert p.dtype == dtype
    assert p.isfinite().all()
    assert {type(v) if not isinstance(v, torch.Tensor) else v.dtype for v in optimizer.state[p].values()} <= {
        dtype,
        int,
        float,
    }


@pytest.mark.parametrize(("name", "options"), RULES)
def test_resuming_is_bitwise_equal_to_going_on(name, options):
    grads = gradients(10)
    straight = parameter()
    take_steps(OPTIMIZERS[name]([straight], lr=0.01, **options), straight, grads)

    first = parameter()
    optimizer = OPTIMIZERS[name]([first], lr=0.01, **options)
    take_steps(optimizer, first, grads[:5])
    state = saved_and_loaded(optimizer.state_dict())
    second = nn.Parameter(first.detach().clone(), requires_grad=False)
    resumed = OPTIMIZERS[name]([second], lr=0.5, **options)
    resumed.load_state_dict(state)
    take_steps(resumed, second, grads[5:])

    assert not torch.equal(first, second)
    assert torch.equal(second, straight)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_a_deep_copy_goes_on_alone(name, options):
    grads = gradients(6)
    p = parameter()
    optimizer = OPTIMIZERS[name]([p], lr=0.01, **options)
    take_steps(optimizer, p, grads[:3])
    twin = copy.deepcopy(optimizer)
    (twin_p,) = twin.param_groups[0]["params"]
    take_steps(optimizer, p, grads[3:])
    assert not torch.equal(p, twin_p)
    take_steps(twin, twin_p, grads[3:])
    assert torch.equal(p, twin_p)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_the_gradient_is_left_as_it_is(name, options):
    p = parameter()
    optimizer = OPTIMIZERS[name]([p], lr=0.01, **options)
    take_steps(optimizer, p, gradients(2))
    assert torch.equal(p.grad, gradients(2)[-1])


@pytest.mark.parametrize(("name", "options"), RULES)
def test_without_a_gradient_nothing_happens(name, options):
    p = parameter()
    optimizer = OPTIMIZERS[name]([p], lr=0.01, **options)
    assert optimizer.step() is None
    assert torch.equal(p, parameter())
    assert not optimizer.state


@pytest.mark.parametrize(("name", "options"), MANY_TENSORS)
def test_tensors_do_not_touch_one_another(name, options):
    """Of sizes and dtypes that make the scratch memory change hands, with one that has no gradient."""
    grads = gradients(5)
    alone = [parameter(numel=NUMEL), parameter(numel=3), parameter(torch.float64, numel=6)]
    together = [parameter(numel=NUMEL), parameter(numel=3), parameter(torch.float64, numel=6), parameter(numel=4)]
    optimizer = OPTIMIZERS[name](together, lr=0.01, **options)
    singles = [OPTIMIZERS[name]([p], lr=0.01, **options) for p in alone]
    for grad in grads:
        for p in alone + together[:-1]:
            p.grad = grad[: p.numel()].to(p.dtype)
        optimizer.step()
        for single in singles:
            single.step()
    for p, expected in zip(together, [*alone, parameter(numel=4)], strict=True):
        assert torch.equal(p, expected)


@pytest.mark.parametrize(
    ("rule", "reference"),
    [pytest.param(SGD, torch.optim.SGD, id="sgd"), pytest.param(AdamW, torch.optim.AdamW, id="adamw")],
)
def test_groups_over_one_flat_tensor_decay_the_weights_alone(rule, reference):
    flat, weight_numel = parameter(torch.float64), 5
    weights, biases = flat.detach()[:weight_numel], flat.detach()[weight_numel:]
    theirs = [nn.Parameter(weights.clone()), nn.Parameter(biases.clone())]
    ours = rule([{"params": [weights]}, {"params": [biases], "weight_decay": 0.0}], 0.1, weight_decay=0.3)
    oracle = reference([{"params": theirs[:1]}, {"params": theirs[1:], "weight_decay": 0.0}], 0.1, weight_decay=0.3)
    for grad in gradients(10, torch.float64):
        weights.grad, biases.grad = grad[:weight_numel], grad[weight_numel:]
        theirs[0].grad, theirs[1].grad = grad[:weight_numel].clone(), grad[weight_numel:].clone()
        ours.step()
        oracle.step()
    torch.testing.assert_close(flat.detach(), torch.cat(theirs).detach(), rtol=1e-13, atol=1e-13)


# In float32 Adam's step is the one in C.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("id", TORCH_RULES)
def test_biases_can_be_spared_the_decay(float64_by_default, id, dtype, tolerance):
    (name, options), (_, reference, torch_options) = OPTIONS[id], TORCH_RULES[id]
    options, torch_options = ({**each, "weight_decay": 0.3} for each in (options, torch_options))
    flat = parameter(dtype)
    ours = OPTIMIZERS[name]([flat], 0.1, decay_biases=False, weight_numel=5, **options)
    theirs = [nn.Parameter(part.double().clone()) for part in flat.detach().split([5, 3])]
    groups = [{"params": theirs[:1], "weight_decay": 0.3}, {"params": theirs[1:], "weight_decay": 0.0}]
    oracle = reference(groups, 0.1, **torch_options)
    for grad in gradients(20, dtype):
        flat.grad = grad
        theirs[0].grad, theirs[1].grad = grad.double().split([5, 3])
        ours.step()
        oracle.step()
    torch.testing.assert_close(flat.detach().double(), torch.cat(theirs).detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"decay_biases": 0}, "decay_biases must be True or False, got 0", id="number"),
        pytest.param({"decay_biases": False}, "weight_numel must be an integer >= 1, got None", id="no-weight_numel"),
        pytest.param({"decay_biases": False, "weight_numel": 0}, "weight_numel must be an integer >= 1", id="none"),
        pytest.param({"decay_biases": False, "weight_numel": 9}, r"weight_numel must mark .* 9, \[\(8,\)\]", id="many"),
    ],
)
def test_weights_that_alone_decay_must_be_told(name, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        OPTIMIZERS[name]([parameter()], 0.1, **options)


def test_only_of_a_flat_tensor_weights_alone_can_decay():
    with pytest.raises(ValueError, match=r"^weight_numel must mark entries of flat tensors, got 2, \[\(4, 2\)\]"):
        SGD([parameter().view(4, 2)], 0.1, decay_biases=False, weight_numel=2)


def test_a_group_has_its_own_options_checked():
    p = parameter()
    with pytest.raises(ValueError, match=r"^lr must be a finite number >= 0, got -1"):
        Adam([{"params": [p], "lr": -1}], 0.1)
    optimizer = Adam([p], 0.1)
    with pytest.raises(ValueError, match=r"^beta1 must be"):
        optimizer.add_param_group({"params": [parameter()], "beta1": 1.0})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(("name", "options"), RULES)
def test_no_parameters(name, options):
    with pytest.raises(ValueError, match="empty parameter list"):
        OPTIMIZERS[name]([], lr=0.1, **options)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_learning_rate_is_read_at_every_step(name, options):
    p = parameter()
    optimizer = OPTIMIZERS[name]([p], lr=0.1, **options)
    take_steps(optimizer, p, gradients(2))
    before = p.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    take_steps(optimizer, p, gradients(1))
    assert torch.equal(p, before)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_closure_runs_before_the_update_and_with_autograd(name, options):
    p = nn.Parameter(parameter().detach())
    optimizer = OPTIMIZERS[name]([p], lr=0.01, **options)
    start = p.detach().clone()

    def closure():
        assert torch.equal(p, start)
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == start.square().sum()
    assert not torch.equal(p, start)
    assert p.requires_grad


@pytest.mark.parametrize(("name", "options"), RULES)
def test_never_waits_for_the_device(name, options):
    """A meta tensor has no values: whatever reads one as a number, as a wait for the device would, raises."""
    p = parameter(device="meta")
    optimizer = OPTIMIZERS[name]([p], lr=0.01, **options)
    p.grad = torch.empty_like(p)
    optimizer.step()
    optimizer.step()
    with pytest.raises(RuntimeError):
        p[0].item()


class Recorder(TorchDispatchMode):
    """The operators that run, and the full-size memory that their results lie in."""

    def __init__(self):
        super().__init__()
        self.operators, self.pointers = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self.operators.append(func.overloadpacket.__name__)
        if isinstance(out, torch.Tensor) and out.numel() >= NUMEL:
            self.pointers.add(out.untyped_storage().data_ptr())
        return out


@pytest.mark.parametrize(("name", "options"), RULES)
def test_allocates_nothing_after_the_first_step(name, options):
    p = parameter()
    optimizer = OPTIMIZERS[name]([p], lr=0.01, **options)
    p.grad = gradients(1)[0]
    optimizer.step()
    with Recorder() as recorder:
        optimizer.step()
    # Compared with memory that is still held: a freed block's address could be given out again.
    kept = [p, *optimizer.state[p].values(), *optimizer.__dict__.get("_scratch", {}).values()]
    known = {tensor.untyped_storage().data_ptr() for tensor in kept if isinstance(tensor, torch.Tensor)}
    assert recorder.pointers <= known
    assert p.data_ptr() in recorder.pointers


def test_plain_sgd_is_a_single_operator():
    p = parameter()
    optimizer = SGD([p], 0.1)
    p.grad = gradients(1)[0]
    with Recorder() as recorder:
        optimizer.step()
    assert recorder.operators == ["add_"]


def parabola(x):
    return 0.5 * (torch.tensor([1.0, 10.0], dtype=x.dtype) * (x - torch.tensor([1.0, 1.0], dtype=x.dtype)) ** 2).sum()


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize(
    ("function", "start", "name", "options", "steps"),
    [
        pytest.param(parabola, (-3.0, 2.0), "sgd", {"lr": 0.1}, 300, id="parabola-sgd"),
        pytest.param(parabola, (-3.0, 2.0), "adam", {"lr": 0.1}, 300, id="parabola-adam"),
        pytest.param(parabola, (-3.0, 2.0), "adamw", {"lr": 0.1, "weight_decay": 0.0}, 300, id="parabola-adamw"),
        pytest.param(parabola, (-3.0, 2.0), "nadam", {"lr": 0.1}, 300, id="parabola-nadam"),
        pytest.param(
            parabola,
            (-3.0, 2.0),
            "muon",
            {"lr": 0.2, "weight_decay": 0.0, "weight_shapes": [(1, 2)]},
            300,
            id="parabola-muon",
        ),
        pytest.param(parabola, (-3.0, 2.0), "rmsprop", {"lr": 0.1}, 300, id="parabola-rmsprop"),
        pytest.param(parabola, (-3.0, 2.0), "adam_norm", {"lr": 0.1, "weight_numel": 2}, 300, id="parabola-adam_norm"),
        pytest.param(rosenbrock, (-1.2, 1.0), "sgd", {"lr": 5e-4, "momentum": 0.95}, 2000, id="rosenbrock-sgd"),
        pytest.param(rosenbrock, (-1.2, 1.0), "adam", {"lr": 0.2}, 2000, id="rosenbrock-adam"),
        pytest.param(rosenbrock, (-1.2, 1.0), "adamw", {"lr": 0.2, "weight_decay": 0.0}, 2000, id="rosenbrock-adamw"),
        pytest.param(rosenbrock, (-1.2, 1.0), "rmsprop", {"lr": 0.01, "momentum": 0.9}, 2000, id="rosenbrock-rmsprop"),
        pytest.param(
            rosenbrock, (-1.2, 1.0), "adam_norm", {"lr": 0.02, "weight_numel": 2}, 2000, id="rosenbrock-adam_norm"
        ),
    ],
)
def test_finds_the_minimum(function, start, name, options, steps):
    """At (1, 1), with the learning rate going to zero along a cosine."""
    x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([x], **options)
    schedule = cosine(steps)
    for t in range(steps):
        optimizer.param_groups[0]["lr"] = options["lr"] * schedule(t)
        x.grad = None
        function(x).backward()
        optimizer.step()
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-2)
