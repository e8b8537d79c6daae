"""Steps that are made in one go, against as many calls: bit by bit."""

import pytest
import torch
from fixtures.steps import engine_of

from mlp_lightning.data.batches import Batch
from mlp_lightning.engines.finiteness import NotFinite
from mlp_lightning.engines.native.chain import has_chain
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.engines.passes import Evaluator
from mlp_lightning.nn import MLP, SoftmaxCrossEntropy
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.optim import SGD, Adam, AdamW, NAdam

SIZES = (12, 150, 70, 4)
RULES = {
    "sgd": lambda net: SGD([net.flat], 0.1),
    "sgd, decay": lambda net: SGD([net.flat], 0.1, weight_decay=0.1),
    "sgd, decay of weights": lambda net: SGD(
        [net.flat], 0.1, weight_decay=0.1, decay_biases=False, weight_numel=net.weight_numel
    ),
    "adam": lambda net: Adam([net.flat], 0.01, beta1=0.8),
    "adamw": lambda net: AdamW([net.flat], 0.01, weight_decay=0.0),
}
RATES = [0.1, 0.05, 0.02, 0.2, 0.01]


def make(rule="sgd", dtype=None, *, loss=None, reduction="mean", activation="relu", of=torch.float32, **options):
    net = MLP(SIZES, activation, "he_normal", generator=torch.Generator().manual_seed(0), dtype=of)
    make_rule = RULES[rule] if isinstance(rule, str) else rule
    loss = SoftmaxCrossEntropy("sum") if loss is None else loss
    return engine_of(net, loss, make_rule(net), reduction=reduction, dtype_of_products=dtype, **options)


def minibatches(count=5, samples=64):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count * samples, SIZES[0], generator=generator)
    y = torch.randint(SIZES[-1], (count * samples,), generator=generator)
    pairs = zip(x.split(samples), y.split(samples), strict=True)
    return [Batch(part, classes, x[:0], y[:0], samples) for part, classes in pairs]


def call(step, batches, rates, first=0):
    return [
        step(batch, lr, step=first + k, keep_gradient=False)
        for k, (batch, lr) in enumerate(zip(batches, rates, strict=True))
    ]


def assert_equal(one, other):
    assert torch.equal(one.network.flat, other.network.flat)
    assert one.samples_seen == other.samples_seen
    ours, theirs = (step.rule.state_dict()["state"] for step in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.get(0, {}).items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[0][name]))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("rule", RULES)
def test_bits_are_those_of_as_many_calls(rule, reduction, dtype, threads):
    batches = minibatches(samples=200 if threads == 2 else 64)
    rates = [lr if reduction == "mean" else lr / 64 for lr in RATES]
    together, one_by_one = (make(rule, dtype, reduction=reduction) for _ in range(2))
    assert together.one_by_one is None
    expected = call(one_by_one, batches, rates)
    # Begun by a call, as after a step that was recorded.
    found = call(together, batches[:1], rates[:1])
    found += [made[1:3] for made in together.steps(batches[1:], rates[1:], 1)]
    assert found == expected
    assert_equal(together, one_by_one)
    # And gone on with by another.
    call(together, batches, rates, 5)
    call(one_by_one, batches, rates, 5)
    assert_equal(together, one_by_one)


def with_validation(batches, samples=9):
    generator = torch.Generator().manual_seed(2)
    return [
        batch._replace(
            val_x=torch.rand(samples, SIZES[0], generator=generator),
            val_y=torch.randint(SIZES[-1], (samples,), generator=generator),
        )
        for batch in batches
    ]


def evaluator_of(step):
    return Evaluator(NativePasses(step.network), step.loss)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_validation_samples_are_evaluated_after_each_step(rule, dtype, threads):
    batches = with_validation(minibatches())
    together, one_by_one = (make(rule, dtype) for _ in range(2))
    assert together.evaluates_steps
    found = list(together.steps(batches, RATES, 0, evaluator_of(together)))
    workspace, loss = evaluator_of(one_by_one)
    for several, batch, lr in zip(found, batches, RATES, strict=True):
        assert several[1:3] == one_by_one(batch, lr, keep_gradient=False)
        logits = workspace.forward(batch.val_x)
        right = (logits.argmax(1) == batch.val_y).sum()
        assert several.evaluated == (loss.forward(logits, batch.val_y)[0], right)
    assert_equal(together, one_by_one)
    assert len({several.evaluated[1] for several in found}) > 1


@pytest.mark.skipif(not has_chain(is_mixed=False), reason="no compiler or BLAS")
@pytest.mark.parametrize("evaluated_rows", [40, 9])
@pytest.mark.parametrize("rule", ["sgd", "sgd, decay", "adam"])
@pytest.mark.parametrize("where", ["the input", "a hidden layer"])
def test_minibatches_with_zeros_and_without_take_turns(where, rule, evaluated_rows, threads):
    """Weights that stay transposed from step to step are given back to whoever reads them straight."""
    batches = with_validation(minibatches(samples=100), evaluated_rows)
    together, one_by_one = (make(rule) for _ in range(2))
    if where == "the input":
        for k in (0, 1, 4):
            batches[k].x[:, 4:] = 0
        for k in (1, 2):
            batches[k].val_x[:, :8] = 0
    else:
        for step in (together, one_by_one):
            step.network.layers[0].bias.detach().fill_(-1.0)
        # The larger the input, the more units answer.
        for k in (0, 1, 4):
            batches[k].x.mul_(0.8)
        for k in (2, 3):
            batches[k].x.mul_(4.0)
        for k in (0, 2):
            batches[k].val_x.mul_(4.0)
    found = list(together.steps(batches, RATES, 0, Evaluator(NativePasses(together.network, None, 16), together.loss)))
    workspace, loss = NativePasses(one_by_one.network, None, 16), one_by_one.loss
    for several, batch, lr in zip(found, batches, RATES, strict=True):
        assert several[1:3] == one_by_one(batch, lr, keep_gradient=False)
        assert several.evaluated[0] == loss.forward(workspace.forward(batch.val_x), batch.val_y)[0]
    assert_equal(together, one_by_one)
    # The weights are where those look that make no steps in C.
    assert torch.equal(together.network(batches[0].x)[0], one_by_one.network(batches[0].x)[0])


@pytest.mark.parametrize(
    "biases",
    [
        pytest.param([1.0, 1.0, 1.0, 1.0], id="the first of the largest"),
        pytest.param([0.0, 2.0, 1.0, 2.0], id="two largest"),
        pytest.param([-1.0, -3.0, -2.0, 0.0], id="the last"),
        pytest.param([0.0, float("nan"), 9.0, float("nan")], id="NaN is larger than all"),
    ],
)
def test_the_answer_is_the_one_of_argmax(biases):
    step = make(lambda net: SGD([net.flat], 0.0))
    # Beside the validation's network the one that trains, whose steps stay finite.
    evaluated = make()
    for layer in evaluated.network.layers:
        layer.weight.detach().zero_()
    evaluated.network.layers[-1].bias.detach().copy_(torch.tensor(biases))
    batches = with_validation(minibatches(count=1), samples=50)
    (several,) = step.steps(batches, [0.0], 0, evaluator_of(evaluated))
    assert several.evaluated[1] == (batches[0].val_y == torch.tensor(biases).argmax()).sum()


def test_samples_that_c_does_not_evaluate_are_left_to_calls():
    step, (first, second, *_) = make(), with_validation(minibatches())
    others = [
        first._replace(val_x=first.val_x[:5], val_y=first.val_y[:5]),
        first._replace(val_x=first.val_x.double()),
        first._replace(val_y=first.val_y.int()),
    ]
    for other in others:
        assert list(step.steps([second, other], RATES[:2], 0, evaluator_of(step))) == []
    none = second._replace(val_x=second.val_x[:0], val_y=second.val_y[:0])
    assert list(step.steps([none], RATES[:1], 0, evaluator_of(step))) == []


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_step_that_overflows_has_no_evaluation(rule, dtype):
    step = make(rule, dtype)
    for layer, scale in zip(step.network.layers, (1e-36, 1e25, 1e15), strict=True):
        layer.weight.detach().mul_(scale)
    steps = step.steps(with_validation(minibatches()), RATES, 7, evaluator_of(step))
    if rule == "sgd":
        assert next(steps).evaluated is None
        with pytest.raises(NotFinite):
            next(steps)
    else:
        assert list(steps) == []


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_step_that_is_not_finite_is_left_to_a_call(rule, dtype):
    batches = minibatches()
    batches[3].x[5, 2] = float("nan")
    together, one_by_one = (make(rule, dtype) for _ in range(2))
    found = [made[1:3] for made in together.steps(batches, RATES, 0)]
    assert found == call(one_by_one, batches[:3], RATES[:3])
    assert_equal(together, one_by_one)
    with pytest.raises(NotFinite, match=r"^step 4 is not finite: the input has nan in sample 5 of the minibatch, col"):
        together(batches[3], RATES[3], step=3)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_gradient_that_overflows(rule, dtype):
    """Finite logits, and weights that make a delta overflow on its way back."""
    step = make(rule, dtype)
    for layer, scale in zip(step.network.layers, (1e-36, 1e25, 1e15), strict=True):
        layer.weight.detach().mul_(scale)
    batches = minibatches()

    def resume():
        made = list(step.steps(batches, RATES, 7))
        call(step, batches[len(made) :], RATES[len(made) :], 7)

    with pytest.raises(NotFinite, match=r"^step 8 is not finite: the gradient of layer . overflows"):
        resume()


def test_minibatches_of_another_kind_are_left_to_calls(dtype):
    step, (first, second, *_) = make("sgd", dtype), minibatches()
    before = step.network.flat.clone()
    others = [
        first._replace(x=first.x[:5], y=first.y[:5], size=5),
        first._replace(partner_y=first.y, share=0.5),
        first._replace(x=first.x.double()),
        first._replace(y=first.y.int()),
        first._replace(x=first.x.t().contiguous().t()),
    ]
    for other in others:
        assert list(step.steps([second, other], RATES[:2], 0)) == []
    assert torch.equal(step.network.flat, before)
    assert step.samples_seen == 0


@pytest.mark.skipif(not has_chain(is_mixed=False), reason="no compiler or BLAS")
def test_a_class_that_there_is_not_is_left_to_a_call():
    step, batches = make(), minibatches()
    batches[1].y[7] = SIZES[-1]
    assert len(list(step.steps(batches, RATES, 0))) == 1
    with pytest.raises((RuntimeError, IndexError)):
        step(batches[1], RATES[1], step=1)


@pytest.mark.skipif(not has_chain(is_mixed=False), reason="no compiler or BLAS")
@pytest.mark.parametrize(
    "options",
    [
        {"rule": lambda net: SGD([net.flat], 0.1, momentum=0.9)},
        {"rule": lambda net: Adam([net.flat], 0.1, weight_decay=0.1)},
        {"rule": lambda net: AdamW([net.flat], 0.1)},
        {"rule": lambda net: Adam([net.flat], 0.1, amsgrad=True)},
        {"rule": lambda net: NAdam([net.flat], 0.1)},
        {"clip_norm": 1.0},
        {"clip_value": 1.0},
        {"l1": 0.1},
        {"max_norm": 1.0},
        {"dropout": Dropout(SIZES, 0.1, 0.0, 0)},
        {"accumulate": 2},
        {"nonfinite": "skip"},
        {"loss": SoftmaxCrossEntropy("sum", label_smoothing=0.1)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_needs_more_is_made_by_calls(options):
    assert make(**options).one_by_one is not None


@pytest.mark.skipif(not has_chain(is_mixed=False), reason="no compiler or BLAS")
def test_who_compares_steps_gets_every_one():
    assert make(nonfinite="ignore").one_by_one is not None


@pytest.mark.parametrize("options", [{"activation": "tanh"}, {"of": torch.float64}])
def test_networks_that_c_does_not_take_are_left_to_calls(options):
    step = make(**options)
    batches = [batch._replace(x=batch.x.to(step.network.flat.dtype)) for batch in minibatches()]
    assert step.one_by_one is not None or list(step.steps(batches, RATES, 0)) == []
