"""The laws that every engine keeps, on every recipe: one table of engines, one of recipes, one test a law."""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from fixtures.networks import torch_twin
from fixtures.steps import engine_of
from torch import nn

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.nn import ACTIVATIONS, MLP, MeanSquaredError, SoftmaxCrossEntropy
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.optim import SGD, Adam, AdamW, NAdam, RMSprop

NOTHING: Mapping[str, Any] = MappingProxyType({})
SIZES = (12, 70, 33, 4)
ROWS, SEED, FIRST = 24, 5, 3


class Variant(NamedTuple):
    """An engine, the dtype of the weights and of the products, and its relative error.

    With bfloat16 a unit near 0 may fall on the other side of the kink.
    """

    engine: str
    dtype: torch.dtype
    products: torch.dtype | None
    error: float


VARIANTS = {
    "reference, float64": Variant("reference", torch.float64, None, 1e-12),
    "reference, float32": Variant("reference", torch.float32, None, 2e-5),
    "torch, float64": Variant("torch", torch.float64, None, 1e-12),
    "torch, float32": Variant("torch", torch.float32, None, 2e-5),
    "torch, bf16": Variant("torch", torch.float32, torch.bfloat16, 0.15),
    "native, float32": Variant("native", torch.float32, None, 2e-5),
    "native, bf16": Variant("native", torch.float32, torch.bfloat16, 0.15),
}


class Recipe(NamedTuple):
    """A step by its options, and torch's rule."""

    rule: Callable[[MLP], Any] = lambda net: SGD([net.flat], 0.1)
    theirs: Callable[..., torch.optim.Optimizer] = lambda groups: torch.optim.SGD(groups, 0.1)
    network: Mapping[str, Any] = NOTHING
    loss: type = SoftmaxCrossEntropy
    of_loss: Mapping[str, Any] = NOTHING
    options: Mapping[str, Any] = NOTHING
    p: float = 0.0


DECAY = {"weight_decay": 0.1}
SPARED = {**DECAY, "decay_biases": False}
RECIPES = {
    "sgd": Recipe(),
    "sgd, sum": Recipe(options={"reduction": "sum"}),
    "sgd, decay of weights": Recipe(lambda net: SGD([net.flat], 0.1, weight_numel=net.weight_numel, **SPARED)),
    "momentum, tanh": Recipe(
        lambda net: SGD([net.flat], 0.1, momentum=0.9, dampening=0.1),
        lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9, dampening=0.1),
        {"activation": "tanh"},
    ),
    "nesterov, clipped": Recipe(
        lambda net: SGD([net.flat], 0.1, momentum=0.9, nesterov=True),
        lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9, nesterov=True),
        options={"clip_norm": 0.2, "clip_value": 0.03},
    ),
    "adam": Recipe(lambda net: Adam([net.flat], 0.01), lambda groups: torch.optim.Adam(groups, 0.01)),
    "adam, amsgrad, decay": Recipe(
        lambda net: Adam([net.flat], 0.01, amsgrad=True, **DECAY),
        lambda groups: torch.optim.Adam(groups, 0.01, amsgrad=True, **DECAY),
        {"activation": "sigmoid"},
    ),
    "adamw, layer norm, dropout": Recipe(
        lambda net: AdamW([net.flat], 0.01, **DECAY),
        lambda groups: torch.optim.AdamW(groups, 0.01, **DECAY),
        {"activation": "gelu", "norm": "layer"},
        p=0.3,
    ),
    "nadam, batch norm, smoothing": Recipe(
        lambda net: NAdam([net.flat], 0.01),
        lambda groups: torch.optim.NAdam(groups, 0.01),
        {"activation": "silu", "norm": "batch"},
        of_loss={"label_smoothing": 0.2},
    ),
    "rmsprop, class weights": Recipe(
        lambda net: RMSprop([net.flat], 0.01),
        lambda groups: torch.optim.RMSprop(groups, 0.01),
        {"activation": "elu"},
        of_loss={"class_weights": torch.tensor([1.0, 2.0, 0.5, 3.0])},
    ),
    "mse, leaky": Recipe(network={"activation": "leaky_relu"}, loss=MeanSquaredError),
    "accumulated": Recipe(options={"accumulate": 2}),
}
# Where the decay spares the biases, torch has two groups.
SPARING = {"sgd, decay of weights": DECAY}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


def network(variant, recipe):
    generator = torch.Generator().manual_seed(0)
    net = MLP(SIZES, **{"activation": "relu", **recipe.network}, generator=generator, dtype=torch.float64)
    return net.to(variant.dtype)


def make(variant, recipe, net=None, **options):
    net = network(variant, recipe) if net is None else net
    dtype = variant.products or variant.dtype
    dropout = Dropout(SIZES, recipe.p, recipe.p / 3, SEED, dtype=dtype) if recipe.p else None
    loss = recipe.loss("sum", **recipe.of_loss)
    options = {**recipe.options, "dropout": dropout, "dtype_of_products": variant.products, **options}
    return engine_of(net, loss, recipe.rule(net), engine=variant.engine, **options)


def minibatches(variant, count=5, rows=ROWS):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.rand(rows, SIZES[0], generator=generator, dtype=torch.float64).to(variant.dtype)
        y = torch.randint(SIZES[-1], (rows,), generator=generator)
        yield Batch(x, y, x[:0], y[:0], rows)


def step(engine, batches, number, *, keep_gradient=True, lr=0.05):
    """One update, of as many minibatches as it takes."""
    count = engine.recipe.accumulate
    for k in range(count):
        engine(next(batches), lr, step=number, updates=k == count - 1, keep_gradient=keep_gradient)


def autograd(engine, recipe, batches, number):
    """The gradient of the update in float64, in the order of ``flat``, by torch.nn and autograd."""
    net, options = copy.deepcopy(engine.network).double(), engine.recipe
    total, count = 0.0, 0
    for _ in range(options.accumulate):
        batch = next(batches)
        masks = options.dropout.masks(number, len(batch.x)) if options.dropout is not None else ()
        twin = torch_twin(net, [None if mask is None else mask.double() for mask in masks])
        logits = twin(batch.x.double())
        if recipe.loss is MeanSquaredError:
            loss = nn.functional.mse_loss(logits, nn.functional.one_hot(batch.y, SIZES[-1]).double(), reduction="sum")
            count += logits.numel()
        else:
            weights, smoothing = recipe.of_loss.get("class_weights"), recipe.of_loss.get("label_smoothing", 0.0)
            weights = None if weights is None else weights.double()
            cross = nn.CrossEntropyLoss(weights, reduction="sum", label_smoothing=smoothing)
            loss = cross(logits, batch.y)
            count += len(batch.y) if weights is None else weights[batch.y].sum()
        loss.backward()
        total = total + flat_gradient(twin, net)
    total = total / count if options.reduction == "mean" else total
    parameter = nn.Parameter(torch.zeros_like(total))
    parameter.grad = total
    if "clip_norm" in recipe.options:
        nn.utils.clip_grad_norm_([parameter], recipe.options["clip_norm"])
        nn.utils.clip_grad_value_([parameter], recipe.options["clip_value"])
    return parameter.grad


def flat_gradient(twin, net):
    linears = [module for module in twin if isinstance(module, nn.Linear)]
    norms = [module for module in twin if isinstance(module, nn.BatchNorm1d | nn.LayerNorm)]
    parts = [[m.weight for m in linears], [m.bias for m in linears], [m.weight for m in norms], [m.bias for m in norms]]
    return torch.cat([parameter.grad.flatten() for part in parts for parameter in part])


def close(ours, expected, error):
    assert (ours.double() - expected).norm() <= error * expected.norm()


def test_the_gradient_is_autograds(variant, name):
    recipe = RECIPES[name]
    engine = make(variant, recipe)
    expected = autograd(engine, recipe, minibatches(variant), FIRST)
    step(engine, minibatches(variant), FIRST)
    # The sum over minibatches is divided in the update.
    close(engine.network.flat_grad, expected, variant.error)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_is_autograds_with_every_activation(variant, activation, norm, p):
    recipe = Recipe(network={"activation": activation, "norm": norm}, p=p)
    engine = make(variant, recipe)
    expected = autograd(engine, recipe, minibatches(variant), FIRST)
    step(engine, minibatches(variant), FIRST)
    close(engine.network.flat_grad, expected, variant.error)


def test_the_update_is_torch_optims(variant, name):
    """For the gradient that the engine has: its own errors are another law's."""
    recipe = RECIPES[name]
    engine = make(variant, recipe)
    numel, batches = engine.network.weight_numel, minibatches(variant, 12)
    flat = engine.network.flat.detach().double()
    weights, rest = nn.Parameter(flat[:numel].clone()), nn.Parameter(flat[numel:].clone())
    optimizer = recipe.theirs([{"params": [weights], **SPARING.get(name, {})}, {"params": [rest]}])
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    for number in range(4):
        before = engine.network.flat.double().clone()
        step(engine, batches, number)
        weights.data, rest.data = before[:numel].clone(), before[numel:].clone()
        gradient = engine.network.flat_grad.double()
        weights.grad, rest.grad = gradient[:numel].clone(), gradient[numel:].clone()
        optimizer.step()
        moved = torch.cat([weights.detach(), rest.detach()]) - before
        close(engine.network.flat.double() - before, moved, 1e-7 if variant.dtype == torch.float64 else 1e-4)


def test_several_steps_are_single_ones(variant, name):
    recipe = RECIPES[name]
    together, one_by_one = make(variant, recipe), make(variant, recipe)
    batches, rates = list(minibatches(variant)), [0.05, 0.02, 0.1, 0.01, 0.03]
    made = list(together.steps(batches, rates, 0))
    if together.one_by_one is not None:
        assert made == []
        return
    pairs = enumerate(zip(batches, rates, strict=True))
    losses = [one_by_one(batch, lr, step=k, keep_gradient=False)[0] for k, (batch, lr) in pairs]
    assert sum(each.n_steps for each in made) == len(batches)
    assert sum(float(each.loss_sum) for each in made) == pytest.approx(float(sum(losses)), rel=1e-12)
    assert torch.equal(together.network.flat, one_by_one.network.flat)


def test_keeping_the_gradient_changes_no_bit(variant, name):
    recipe = RECIPES[name]
    found = []
    for keep_gradient in (False, True):
        engine, batches = make(variant, recipe), minibatches(variant, 6)
        for number in range(3):
            step(engine, batches, number, keep_gradient=keep_gradient)
        found.append(engine.network.flat.clone())
    assert torch.equal(*found)


def test_memory_of_other_minibatches_changes_no_bit(variant, name):
    recipe, error = RECIPES[name], torch.finfo(variant.dtype).eps
    engine = make(variant, recipe)
    for number, rows in enumerate((4, 9, 4, 12, 3, 9)):
        fresh = make(variant, recipe, copy.deepcopy(engine.network))
        for each in (engine, fresh):
            step(each, minibatches(variant, 2, rows), number, lr=0.0)
        # Zeros may be skipped or not, by where the weights are.
        close(engine.network.flat_grad, fresh.network.flat_grad.double(), 8 * error)


def test_a_moved_parameter_is_followed(variant, name):
    recipe = RECIPES[name]
    engine = make(variant, recipe)
    step(engine, minibatches(variant), 0, lr=0.0)
    engine.network.flat.data = 1.5 * engine.network.flat.data
    expected = autograd(engine, recipe, minibatches(variant), FIRST)
    step(engine, minibatches(variant), FIRST, lr=0.0)
    close(engine.network.flat_grad, expected, variant.error)


@pytest.mark.parametrize("nonfinite", ["stop", "skip", "ignore"])
def test_a_step_that_is_not_finite(variant, name, nonfinite):
    recipe = RECIPES[name]
    engine = make(variant, recipe, nonfinite=nonfinite)
    step(engine, minibatches(variant), 0)
    before = engine.network.flat.clone()
    bad = [batch._replace(x=batch.x.clone().fill_(float("nan"))) for batch in minibatches(variant, 2)]
    if nonfinite == "stop":
        with pytest.raises(NotFinite, match=r"^step 8 is not finite: the input has nan in sample 0 of the minibatch"):
            step(engine, iter(bad), 7)
        assert engine.network.flat.isfinite().all()
    else:
        step(engine, iter(bad), 7)
        assert engine.finiteness.skipped is (nonfinite == "skip")
        assert torch.equal(engine.network.flat, before) is (nonfinite == "skip")


def test_what_an_engine_refuses_is_said(variant, name):
    recipe = RECIPES[name]
    engine = make(variant, recipe)
    assert type(engine).refuses(engine.recipe) is None
    assert engine.name == variant.engine
    assert engine.one_by_one is None or len(engine.one_by_one) > 10
