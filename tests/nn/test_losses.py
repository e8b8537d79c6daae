import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.nn import LOSSES, MeanSquaredError, SoftmaxCrossEntropy
from mlp_lightning.nn.losses import WeightedSquaredError

WEIGHTS = torch.tensor([0.2, 1.0, 3.5, 0.7, 2.0], dtype=torch.float64)
OPTIONS = [
    pytest.param({"reduction": reduction, "label_smoothing": smoothing, "class_weights": weights}, id=label)
    for reduction in ("mean", "sum")
    for smoothing in (0.0, 0.1, 0.5)
    for weights, label in (
        (None, f"{reduction}-smoothing-{smoothing}"),
        (WEIGHTS, f"{reduction}-smoothing-{smoothing}-weighted"),
    )
]
REDUCTIONS = ["mean", "sum"]
EVERY_LOSS = [
    pytest.param(loss, reduction, id=f"{name}-{reduction}") for name, loss in LOSSES.items() for reduction in REDUCTIONS
]
BATCHES = [pytest.param(1, id="one-sample"), pytest.param(7, id="seven")]
INVARIANCE_TOLERANCE = 1e-13
FLOAT32_TOLERANCE = 1e-6


def draw(batch: int, classes: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(classes, (batch,), generator=generator)


def torchs(loss: SoftmaxCrossEntropy | MeanSquaredError, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss by torch.nn.functional."""
    if isinstance(loss, MeanSquaredError):
        onehot = F.one_hot(targets, logits.shape[1]).to(logits)
        return F.mse_loss(logits, onehot, reduction=loss.reduction)
    return F.cross_entropy(
        logits,
        targets,
        weight=loss.class_weights,
        reduction=loss.reduction,
        label_smoothing=loss.label_smoothing,
    )


def check_against_torch(assert_oracle, loss, logits: Tensor, targets: Tensor, dloss: float | Tensor) -> None:
    value, cache = loss.forward(logits, targets)
    leaf = logits.clone().requires_grad_()
    oracle = torchs(loss, leaf, targets)
    assert_oracle("loss", value, oracle.detach())
    upstream = torch.as_tensor(dloss, dtype=logits.dtype)
    assert_oracle("dlogits", loss.backward(cache, dloss), torch.autograd.grad(oracle, leaf, upstream)[0])


@pytest.mark.parametrize("dloss", [1.0, -0.37, torch.tensor(2.5, dtype=torch.float64)], ids=["1", "-0.37", "tensor"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("options", OPTIONS)
def test_cross_entropy_is_torchs(assert_oracle, options, batch, dloss):
    check_against_torch(assert_oracle, SoftmaxCrossEntropy(**options), *draw(batch), dloss)


@pytest.mark.parametrize("dloss", [1.0, -0.37, torch.tensor(2.5, dtype=torch.float64)], ids=["1", "-0.37", "tensor"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse_is_torchs(assert_oracle, reduction, batch, dloss):
    check_against_torch(assert_oracle, MeanSquaredError(reduction), *draw(batch), dloss)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(**p.values[0]) for p in OPTIONS], ids=[p.id for p in OPTIONS])
def test_cross_entropy_is_the_central_difference(assert_differences, loss):
    logits, targets = draw(7)
    _, cache = loss.forward(logits, targets)
    assert_differences("dlogits", lambda x: loss.forward(x, targets)[0], logits, loss.backward(cache), 35)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse_is_the_central_difference(assert_differences, reduction):
    loss = MeanSquaredError(reduction)
    logits, targets = draw(7)
    _, cache = loss.forward(logits, targets)
    assert_differences("dlogits", lambda x: loss.forward(x, targets)[0], logits, loss.backward(cache), 35)


def draw_probabilities(batch: int) -> tuple[Tensor, Tensor]:
    logits, _ = draw(batch)
    generator = torch.Generator().manual_seed(1)
    return logits, torch.rand(batch, 5, generator=generator, dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("options", OPTIONS)
def test_cross_entropy_of_probabilities_is_torchs(assert_oracle, options, batch):
    logits, targets = draw_probabilities(batch)
    loss = SoftmaxCrossEntropy(**options)
    value, cache = loss.forward(logits, targets)
    leaf = logits.clone().requires_grad_()
    oracle = torchs(SoftmaxCrossEntropy(**{**options, "reduction": "sum"}), leaf, targets)
    if loss.reduction == "mean":
        # Torch's own mean divides by B here.
        weights = torch.ones(5, dtype=torch.float64) if loss.class_weights is None else WEIGHTS
        oracle = oracle / (targets @ weights).sum()
    assert_oracle("loss", value, oracle.detach())
    assert_oracle("dlogits", loss.backward(cache), torch.autograd.grad(oracle, leaf)[0])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse_of_probabilities_is_torchs(assert_oracle, reduction):
    logits, targets = draw_probabilities(7)
    value, cache = MeanSquaredError(reduction).forward(logits, targets)
    leaf = logits.clone().requires_grad_()
    oracle = F.mse_loss(leaf, targets, reduction=reduction)
    assert_oracle("loss", value, oracle.detach())
    assert_oracle("dlogits", MeanSquaredError(reduction).backward(cache), torch.autograd.grad(oracle, leaf)[0])


@pytest.mark.parametrize("options", OPTIONS)
def test_onehot_probabilities_are_classes(assert_oracle, options):
    logits, targets = draw(7)
    for loss in (SoftmaxCrossEntropy(**options), MeanSquaredError(options["reduction"])):
        (value, cache), (expected, its_cache) = (
            loss.forward(logits, given) for given in (F.one_hot(targets, 5).double(), targets)
        )
        assert_oracle("loss", value, expected)
        assert_oracle("dlogits", loss.backward(cache), loss.backward(its_cache))
        assert float(loss.normalizer(logits, F.one_hot(targets, 5).double())) == pytest.approx(
            float(loss.normalizer(logits, targets))
        )


def test_probabilities_of_logits_too_far_apart():
    biggest = torch.finfo(torch.float32).max
    logits = torch.tensor([[biggest, -biggest, 0.0]])
    loss, cache = SoftmaxCrossEntropy().forward(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    assert loss == 0
    assert SoftmaxCrossEntropy().backward(cache).tolist() == [[0, 0, 0]]
    loss, cache = SoftmaxCrossEntropy().forward(logits, torch.tensor([[0.5, 0.5, 0.0]]))
    assert loss.isfinite()
    assert SoftmaxCrossEntropy().backward(cache).tolist() == [[0.5, -0.5, 0]]


@pytest.mark.parametrize("options", OPTIONS)
def test_sum_of_no_samples(options):
    loss = SoftmaxCrossEntropy(**{**options, "reduction": "sum"})
    value, cache = loss.forward(*draw(0))
    assert value.item() == 0
    assert loss.backward(cache).shape == (0, 5)


def test_mse_sum_of_no_samples():
    value, cache = MeanSquaredError("sum").forward(*draw(0))
    assert value.item() == 0
    assert MeanSquaredError("sum").backward(cache).shape == (0, 5)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_mean_of_no_samples_is_refused(loss):
    with pytest.raises(ValueError, match=r"^reduction 'mean' needs at least one sample"):
        loss("mean").forward(*draw(0))


@pytest.mark.parametrize("options", [p for p in OPTIONS if p.values[0]["reduction"] == "mean"])
def test_mean_is_sum_over_normalizer(assert_oracle, options):
    logits, targets = draw(7)
    mean, total = SoftmaxCrossEntropy(**options), SoftmaxCrossEntropy(**{**options, "reduction": "sum"})
    normalizer = mean.normalizer(logits, targets)
    expected = float(len(targets)) if mean.class_weights is None else WEIGHTS[targets].sum().item()
    assert float(normalizer) == pytest.approx(expected, rel=INVARIANCE_TOLERANCE)
    (mean_loss, mean_cache), (sum_loss, sum_cache) = mean.forward(logits, targets), total.forward(logits, targets)
    assert_oracle("loss", mean_loss, sum_loss / normalizer)
    assert_oracle("dlogits", mean.backward(mean_cache), total.backward(sum_cache) / normalizer)
    assert_oracle("dloss in place of the mean", total.backward(sum_cache, 1 / normalizer), mean.backward(mean_cache))


def test_mse_normalizer():
    assert MeanSquaredError().normalizer(*draw(7)) == 35.0


@pytest.mark.parametrize("options", OPTIONS)
def test_cross_entropy_ignores_a_shift_of_a_row(assert_oracle, options):
    loss = SoftmaxCrossEntropy(**options)
    logits, targets = draw(7)
    shift = torch.linspace(-8, 8, 7, dtype=torch.float64).unsqueeze(1)
    (value, cache), (shifted, shifted_cache) = loss.forward(logits, targets), loss.forward(logits + shift, targets)
    assert_oracle("loss", shifted, value, INVARIANCE_TOLERANCE)
    assert_oracle("dlogits", loss.backward(shifted_cache), loss.backward(cache), INVARIANCE_TOLERANCE)


@pytest.mark.parametrize("options", OPTIONS)
def test_rows_of_the_cross_entropy_gradient_sum_to_zero(options):
    loss = SoftmaxCrossEntropy(**options)
    dlogits = loss.backward(loss.forward(*draw(7))[1])
    assert dlogits.abs().max() > 0.01
    assert dlogits.sum(1).abs().max() < INVARIANCE_TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("loss", "reduction"), EVERY_LOSS)
def test_arguments_are_kept_and_types_follow(loss, reduction, dtype):
    logits, targets = draw(7, dtype=dtype)
    logits_before, targets_before = logits.clone(), targets.clone()
    value, cache = loss(reduction).forward(logits, targets)
    first = loss(reduction).backward(cache)
    assert torch.equal(loss(reduction).backward(cache), first), "a second backward pass from the same cache differs"
    assert torch.equal(logits, logits_before)
    assert torch.equal(targets, targets_before)
    assert value.shape == ()
    assert value.dtype == first.dtype == dtype


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("magnitude", [1e4, 1e30, 3e38])
def test_huge_logits(options, magnitude):
    """With opposite signs: right where it can be represented, finite everywhere."""
    loss = SoftmaxCrossEntropy(**options)
    row = torch.tensor([1.0, -1.0, 1.0, 0.5, -1.0], dtype=torch.float64) * magnitude
    logits = torch.stack([row, -row, row]).float()
    targets = torch.tensor([0, 0, 1])
    value, cache = loss.forward(logits, targets)
    dlogits = loss.backward(cache)
    leaf = logits.double().requires_grad_()
    oracle = torchs(SoftmaxCrossEntropy(**options), leaf, targets)
    assert value.item() == pytest.approx(min(oracle.item(), torch.finfo(torch.float32).max), rel=FLOAT32_TOLERANCE)
    expected = torch.autograd.grad(oracle, leaf)[0]
    torch.testing.assert_close(dlogits.double(), expected, rtol=FLOAT32_TOLERANCE, atol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, torch.tensor([0.01, 0.01])], ids=["plain", "light"])
@pytest.mark.parametrize("batch", [1, 3, 10, 19, 64, 1000])
def test_a_loss_beyond_the_largest_number_is_that_number(reduction, weights, batch):
    largest = torch.finfo(torch.float32).max
    logits = torch.tensor([[largest, -largest]]).expand(batch, 2)
    loss = SoftmaxCrossEntropy(reduction, class_weights=weights)
    value, _ = loss.forward(logits, torch.ones(batch, dtype=torch.int64))
    assert value.item() == largest


def test_mean_of_losses_whose_sum_is_beyond_the_largest_number():
    logits = torch.tensor([[1.5e38, -1.5e38]]).expand(4, 2)
    value, _ = SoftmaxCrossEntropy().forward(logits, torch.ones(4, dtype=torch.int64))
    assert value.item() == pytest.approx(3e38, rel=FLOAT32_TOLERANCE)


def test_nan_logits_stay_visible():
    logits, targets = draw(3)
    logits[1, 2] = torch.nan
    for loss in (SoftmaxCrossEntropy(), MeanSquaredError()):
        assert loss.forward(logits, targets)[0].isnan()


@pytest.mark.parametrize("magnitude", [1e4, 1e30])
def test_mse_gradient_of_huge_outputs(assert_oracle, magnitude):
    logits = torch.tensor([[magnitude, -magnitude, 0.0]])
    targets = torch.tensor([1])
    _, cache = MeanSquaredError().forward(logits, targets)
    leaf = logits.double().requires_grad_()
    expected = torch.autograd.grad(torchs(MeanSquaredError(), leaf, targets), leaf)[0]
    assert_oracle("dlogits", MeanSquaredError().backward(cache).double(), expected, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64], ids=["float32", "float64", "int64"])
def test_class_weights_follow_the_type_of_the_logits(assert_oracle, dtype):
    weights = torch.tensor([1, 2, 3, 4, 5], dtype=dtype)
    logits, targets = draw(7)
    ours = SoftmaxCrossEntropy(class_weights=weights, label_smoothing=0.1).forward(logits, targets)[0]
    expected = F.cross_entropy(logits, targets, weight=weights.double(), label_smoothing=0.1)
    assert_oracle("loss", ours, expected)


INT_TARGETS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        pytest.param(torch.zeros(5), INT_TARGETS, id="one-dimensional-logits"),
        pytest.param(torch.zeros(3, 5, 1), INT_TARGETS, id="three-dimensional-logits"),
        pytest.param(torch.zeros(4, 5), INT_TARGETS, id="fewer-targets"),
        pytest.param(torch.zeros(2, 5), INT_TARGETS, id="more-targets"),
        pytest.param(torch.zeros(3, 5), torch.zeros((), dtype=torch.int64), id="scalar-target"),
        pytest.param(torch.zeros(3, 5), INT_TARGETS.unsqueeze(1), id="column-of-targets"),
        pytest.param(torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.int64), id="integer-onehot-targets"),
        pytest.param(torch.zeros(3, 5), torch.zeros(3, 4), id="probabilities-of-fewer-classes"),
        pytest.param(torch.zeros(3, 5), torch.zeros(1, 5), id="probabilities-of-fewer-samples"),
        pytest.param(torch.zeros(3, 5), torch.zeros(3), id="float-targets"),
        pytest.param(torch.zeros(3, 5), INT_TARGETS.int(), id="int32-targets"),
        pytest.param(torch.zeros(3, 5), INT_TARGETS.bool(), id="bool-targets"),
        pytest.param(torch.zeros(3, 5, dtype=torch.int64), INT_TARGETS, id="integer-logits"),
    ],
)
def test_bad_minibatches(loss, logits, targets):
    with pytest.raises(
        ValueError, match=r"^floating-point logits \(B, K\) and int64 targets \(B,\) or prob.* needed, got"
    ):
        loss().forward(logits, targets)


@pytest.mark.parametrize("target", [-1, 5])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_targets_outside_the_classes(loss, target):
    with pytest.raises(RuntimeError, match="out of bounds"):
        loss().forward(torch.zeros(2, 5), torch.tensor([0, target]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"reduction": "none"}, "reduction must be 'mean' or 'sum', got 'none'", id="reduction"),
        pytest.param(
            {"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\), got -0.1", id="negative-smoothing"
        ),
        pytest.param({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0", id="smoothing-1"),
        pytest.param({"label_smoothing": float("nan")}, "label_smoothing must be", id="nan-smoothing"),
        pytest.param({"class_weights": torch.tensor([1.0, 0.0])}, "class_weights must be positive", id="zero-weight"),
        pytest.param({"class_weights": torch.tensor([1.0, -1.0])}, "class_weights must be", id="negative-weight"),
        pytest.param({"class_weights": torch.tensor([1.0, torch.inf])}, "class_weights must be", id="inf-weight"),
        pytest.param({"class_weights": torch.tensor([1.0, torch.nan])}, "class_weights must be", id="nan-weight"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SoftmaxCrossEntropy(**options)


def test_bad_reduction_of_mse():
    with pytest.raises(ValueError, match=r"^reduction must be 'mean' or 'sum', got 'none'"):
        MeanSquaredError("none")


@pytest.mark.parametrize("shape", [(), (1,), (4,), (6,), (1, 5)], ids=str)
def test_class_weights_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"^class_weights must be \(K,\) = \(5,\), got \("):
        SoftmaxCrossEntropy(class_weights=torch.ones(shape)).forward(*draw(3))


COUNTS = torch.tensor([2, 0, 1, 3, 1, 1, 4])


@pytest.mark.parametrize("options", OPTIONS)
def test_cross_entropy_of_weighted_rows_is_torchs_of_repeated_samples(assert_oracle, options):
    logits, targets = draw(len(COUNTS))
    ones = torch.ones(logits.shape[1], dtype=logits.dtype)
    loss = SoftmaxCrossEntropy(**options | {"class_weights": ones if options["class_weights"] is None else WEIGHTS})
    value, cache = loss.forward(logits, F.one_hot(targets, logits.shape[1]).to(logits) * COUNTS.unsqueeze(1))
    leaf = logits.clone().requires_grad_()
    oracle = torchs(loss, leaf.repeat_interleave(COUNTS, 0), targets.repeat_interleave(COUNTS))
    assert_oracle("loss", value, oracle.detach())
    assert_oracle("dlogits", loss.backward(cache), torch.autograd.grad(oracle, leaf)[0])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_squared_error_of_weighted_rows_is_torchs_of_repeated_samples(assert_oracle, reduction):
    logits, _ = draw(len(COUNTS))
    values = torch.linspace(-2, 3, logits.numel(), dtype=logits.dtype).view_as(logits)
    loss = WeightedSquaredError(reduction)
    targets = torch.cat([values, COUNTS.to(logits).unsqueeze(1)], 1)
    value, cache = loss.forward(logits, targets)
    leaf = logits.clone().requires_grad_()
    repeated = (part.repeat_interleave(COUNTS, 0) for part in (leaf, values))
    oracle = F.mse_loss(*repeated, reduction=reduction)
    assert_oracle("loss", value, oracle.detach())
    assert_oracle("dlogits", loss.backward(cache), torch.autograd.grad(oracle, leaf)[0])
    assert float(loss.normalizer(logits, targets)) == COUNTS.sum() * logits.shape[1]
