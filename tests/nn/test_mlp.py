"""The whole network's gradients; its storage and its training have files of their own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mlp_lightning.nn import ACTIVATIONS, LOSSES, MLP, MeanSquaredError, SoftmaxCrossEntropy
from mlp_lightning.nn.dropout import Dropout
from mlp_lightning.nn.training_pass import TrainingPass

SIZES = [
    pytest.param((6, 4), id="no-hidden-layer"),
    pytest.param((6, 9, 4), id="one-hidden-layer"),
    pytest.param((6, 9, 5, 4), id="two-hidden-layers"),
    pytest.param((6, 7, 3, 8, 5, 4), id="four-hidden-layers"),
    pytest.param((1, 1, 2), id="width-1"),
    pytest.param((3, 50, 2), id="wide"),
]
EVERY_LOSS = [
    pytest.param(loss(reduction), id=f"{name}-{reduction}")
    for name, loss in LOSSES.items()
    for reduction in ("mean", "sum")
]
SUM_TOLERANCE = 1e-13


def network(sizes, activation: str, seed: int = 0, norm: str = "none") -> MLP:
    """A float64 network whose biases, γ and β are drawn as well."""
    generator = torch.Generator().manual_seed(seed)
    net = MLP(sizes, activation, norm=norm, generator=generator, dtype=torch.float64)
    net.flat[net.weight_numel :].normal_(generator=generator)
    return net


def minibatch(net: MLP, batch: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, net.sizes[0], generator=generator, dtype=torch.float64)
    return x, torch.randint(net.sizes[-1], (batch,), generator=generator)


def gradients(net: MLP, loss, x: Tensor, y: Tensor, training: TrainingPass | None = None) -> dict[str, Tensor]:
    """By hand: dX and every dW, db, dγ and dβ by name, from a flat gradient that starts as NaN."""
    net.flat_grad.fill_(torch.nan)
    logits, cache = net.forward(x, training)
    _, loss_cache = loss.forward(logits, y)
    named = {"dx": net.backward(loss.backward(loss_cache), cache, input_gradient=True)}
    for k, layer in enumerate(net.layers):
        named[f"layers.{k}.dweight"] = layer.dweight.clone()
        named[f"layers.{k}.dbias"] = layer.dbias.clone()
        if k < len(net.norms):
            named[f"norms.{k}.dgamma"] = net.norms[k].dgamma.clone()
            named[f"norms.{k}.dbeta"] = net.norms[k].dbeta.clone()
    return named


def torchs(loss, logits: Tensor, y: Tensor) -> Tensor:
    if isinstance(loss, MeanSquaredError):
        return F.mse_loss(logits, F.one_hot(y, logits.shape[1]).to(logits), reduction=loss.reduction)
    return F.cross_entropy(logits, y, reduction=loss.reduction, label_smoothing=loss.label_smoothing)


def check_against_autograd(
    assert_oracle,
    twin,
    net: MLP,
    loss,
    x: Tensor,
    y: Tensor,
    training: TrainingPass | None = None,
    tolerance: float = 1e-10,
) -> None:
    reference, leaf = twin(net, training.masks if training else ()), x.clone().requires_grad_()
    logits = reference.train(training is not None)(leaf)
    assert_oracle("logits", net.forward(x, training)[0], logits.detach(), tolerance)
    oracle = torch.autograd.grad(torchs(loss, logits, y), [leaf, *reference.parameters()])
    for (name, gradient), expected in zip(gradients(net, loss, x, y, training).items(), oracle, strict=True):
        if net.norm == "batch" and name.endswith(("dbias", "dbeta")):
            # What the next batch norm takes off again has no gradient, and rounding is all there is to compare.
            torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance)
        else:
            assert_oracle(name, gradient, expected, tolerance)


@pytest.mark.parametrize("batch", [1, 7], ids=["one-sample", "seven"])
@pytest.mark.parametrize("loss", EVERY_LOSS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_are_autograds(assert_oracle, twin, sizes, activation, loss, batch):
    net = network(sizes, activation)
    check_against_autograd(assert_oracle, twin, net, loss, *minibatch(net, batch))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    loss=st.one_of(
        st.builds(MeanSquaredError, st.sampled_from(["mean", "sum"])),
        st.builds(SoftmaxCrossEntropy, st.sampled_from(["mean", "sum"]), label_smoothing=st.floats(0, 0.9)),
    ),
    batch=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_gradients_of_drawn_architectures_are_autograds(assert_oracle, twin, sizes, activation, loss, batch, seed):
    net = network(sizes, activation, seed)
    check_against_autograd(assert_oracle, twin, net, loss, *minibatch(net, batch, seed))


def training_of(net: MLP, samples: int, p: float = 0.0, input_p: float = 0.0) -> TrainingPass:
    masks = Dropout(net.sizes, p, input_p, 0, dtype=torch.float64).masks(3, samples) if p or input_p else ()
    return TrainingPass(samples, masks)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize(("p", "input_p"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.2), (0.3, 0.2)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_with_norm_and_dropout_are_autograds(assert_oracle, twin, activation, p, input_p, norm):
    net = network((6, 9, 7, 4), activation, norm=norm)
    x, y = minibatch(net, 8)
    check_against_autograd(assert_oracle, twin, net, SoftmaxCrossEntropy(), x, y, training_of(net, 8, p, input_p))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_gradients_in_evaluation_are_autograds(assert_oracle, twin, norm):
    net = network((6, 9, 7, 4), "tanh", norm=norm)
    if norm == "batch":
        net.running.uniform_(0.2, 2, generator=torch.Generator().manual_seed(0))
    check_against_autograd(assert_oracle, twin, net, SoftmaxCrossEntropy(), *minibatch(net, 8))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    sizes=st.lists(st.integers(2, 12), min_size=2, max_size=5),
    activation=st.sampled_from(["tanh", "gelu", "softplus"]),
    norm=st.sampled_from(["batch", "layer"]),
    p=st.sampled_from([0.0, 0.5]),
    batch=st.integers(4, 20),
    seed=st.integers(0, 2**32),
)
def test_gradients_of_drawn_normed_architectures(assert_oracle, twin, sizes, activation, norm, p, batch, seed):
    net = network(sizes, activation, seed, norm)
    # Two units have but the two values ±1 after layer norm, whose gradients are all rounding.
    tolerance = 1e-10 if norm == "batch" or min(sizes) > 2 else 1e-6
    x, y = minibatch(net, batch, seed)
    check_against_autograd(assert_oracle, twin, net, SoftmaxCrossEntropy(), x, y, training_of(net, batch, p), tolerance)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_norm_deltas_are_the_gradients_of_what_activations_read(assert_oracle, twin, norm):
    net = network((6, 9, 7, 4), "tanh", norm=norm)
    x, y = minibatch(net, 8)
    logits, cache = net.forward(x, training_of(net, 8))
    found: list[Tensor] = []
    loss = SoftmaxCrossEntropy()
    net.backward(loss.backward(loss.forward(logits, y)[1]), cache, norm_deltas=found)
    a, read = x, []
    for module in twin(net):
        a = module(a)
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.LayerNorm):
            read.append(a)
    for delta, expected in zip(found, torch.autograd.grad(F.cross_entropy(a, y), read[::-1]), strict=True):
        assert_oracle("dN", delta, expected)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_no_pass_changes_the_network_or_its_input(norm):
    net = network((6, 9, 7, 4), "relu", norm=norm)
    x, y = minibatch(net, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kept = x.clone()
    gradients(net, SoftmaxCrossEntropy(), x, y, training_of(net, 8, 0.3, 0.2))
    gradients(net, SoftmaxCrossEntropy(), x, y)
    assert torch.equal(x, kept)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_no_samples_train_without_a_number_that_is_none(norm):
    net = network((6, 9, 7, 4), "relu", norm=norm)
    x, y = minibatch(net, 0)
    # One process's empty share of a minibatch of eight.
    gradients(net, SoftmaxCrossEntropy("sum"), x, y, TrainingPass(8))
    assert not net.flat_grad.any()


@pytest.mark.parametrize("loss", EVERY_LOSS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_central_differences(assert_differences, activation, loss):
    net = network((6, 7, 5, 4), activation)
    x, y = minibatch(net, 5)
    dx = gradients(net, loss, x, y)["dx"]

    def of_parameters(flat: Tensor) -> Tensor:
        moved = network(net.sizes, activation)
        moved.flat.copy_(flat)
        return loss.forward(moved.forward(x)[0], y)[0]

    assert_differences("dx", lambda x: loss.forward(net.forward(x)[0], y)[0], x, dx)
    assert_differences("flat_grad", of_parameters, net.flat.detach(), net.flat_grad, 20)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu"])
def test_pre_activations_exactly_at_the_kink(assert_oracle, twin, activation):
    net = network((6, 9, 5, 4), activation)
    for layer in net.layers[:-1]:
        layer.weight[::2].zero_()
        layer.bias[::2].zero_()
    x, y = minibatch(net, 7)
    assert (net.forward(x)[1][0][1] == 0).any()
    check_against_autograd(assert_oracle, twin, net, SoftmaxCrossEntropy(), x, y)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy("sum"), MeanSquaredError("sum")], ids=LOSSES)
def test_summed_gradient_is_the_sum_over_single_samples(assert_oracle, loss):
    net = network((6, 9, 5, 4), "tanh")
    x, y = minibatch(net, 7)
    singles = [gradients(net, loss, x[i : i + 1], y[i : i + 1]) for i in range(7)]
    together = gradients(net, loss, x, y)
    assert_oracle("dx", together.pop("dx"), torch.cat([single.pop("dx") for single in singles]), SUM_TOLERANCE)
    for name, gradient in together.items():
        assert_oracle(name, gradient, torch.stack([single[name] for single in singles]).sum(0), SUM_TOLERANCE)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_order_of_samples_does_not_matter(assert_oracle, loss):
    net = network((6, 9, 5, 4), "relu")
    x, y = minibatch(net, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    expected, permuted = gradients(net, loss, x, y), gradients(net, loss, x[order], y[order])
    expected["dx"] = expected["dx"][order]
    for name, gradient in permuted.items():
        assert_oracle(name, gradient, expected[name], SUM_TOLERANCE)


def test_strided_inputs(assert_oracle):
    net = network((6, 9, 4), "gelu")
    x, y = minibatch(net, 7)
    strided = torch.stack([x, -x], dim=2)[:, :, 0]
    assert not strided.is_contiguous()
    expected = gradients(net, SoftmaxCrossEntropy(), x, y)
    for name, gradient in gradients(net, SoftmaxCrossEntropy(), strided, y).items():
        assert_oracle(name, gradient, expected[name])


def test_no_samples_give_a_zero_gradient():
    net = network((6, 9, 4), "relu")
    x, y = minibatch(net, 0)
    named = gradients(net, SoftmaxCrossEntropy("sum"), x, y)
    assert named["dx"].shape == (0, 6)
    assert torch.equal(net.flat_grad, torch.zeros_like(net.flat_grad))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backward_keeps_its_arguments(activation):
    net = network((6, 9, 5, 4), activation)
    x, y = minibatch(net, 7)
    logits, cache = net.forward(x)
    dlogits = SoftmaxCrossEntropy().backward(SoftmaxCrossEntropy().forward(logits, y)[1])
    tensors = [x, logits, dlogits, *(t for step in cache for t in step)]
    before = [t.clone() for t in tensors]
    net.backward(dlogits, cache, input_gradient=True)
    first = net.flat_grad.clone()
    for tensor, kept in zip(tensors, before, strict=True):
        assert torch.equal(tensor, kept)
    assert net.backward(dlogits, cache) is None
    assert torch.equal(net.flat_grad, first), "a second backward pass from the same cache differs"


@pytest.mark.parametrize("sizes", SIZES[:3])
def test_deltas_are_the_gradients_of_the_pre_activations(assert_oracle, twin, sizes):
    net = network(sizes, "tanh")
    x, y = minibatch(net, 7)
    logits, cache = net.forward(x)
    deltas: list[Tensor] = []
    net.backward(SoftmaxCrossEntropy().backward(SoftmaxCrossEntropy().forward(logits, y)[1]), cache, deltas=deltas)
    activations, pre_activations = x, []
    for module in twin(net):
        activations = module(activations)
        if isinstance(module, torch.nn.Linear):
            pre_activations.append(activations)
    oracle = torch.autograd.grad(F.cross_entropy(activations, y), pre_activations[::-1])
    for k, (delta, expected) in enumerate(zip(deltas, oracle, strict=True)):
        assert_oracle(f"deltas[{k}]", delta, expected)


def test_no_autograd_graph():
    net = network((6, 9, 4), "relu")
    x, y = minibatch(net, 7)
    logits, cache = net.forward(x)
    loss, loss_cache = SoftmaxCrossEntropy().forward(logits, y)
    dx = net.backward(SoftmaxCrossEntropy().backward(loss_cache), cache, input_gradient=True)
    assert [p.requires_grad for p in net.parameters()] == [False]
    for tensor in (logits, loss, dx, net.flat_grad, *(t for layer in net.layers for t in layer)):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"sizes": []}, r"sizes must be two or more positive widths, got \[\]", id="no-sizes"),
        pytest.param({"sizes": [3]}, r"sizes must be two or more positive widths, got \[3\]", id="one-size"),
        pytest.param({"sizes": [3, 0, 2]}, r"sizes must be .*, got \[3, 0, 2\]", id="zero-width"),
        pytest.param({"sizes": (3, -1)}, r"sizes must be .*, got \[3, -1\]", id="negative-width"),
        pytest.param({"activation": "swish"}, "activation must be one of sigmoid, .*, got 'swish'", id="activation"),
        pytest.param({"init": "xavier"}, "init must be one of zeros, .*, got 'xavier'", id="init"),
        pytest.param({"norm": "group"}, "norm must be one of none, batch, layer, got 'group'", id="norm"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        MLP(**{"sizes": [3, 2], **arguments})


@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 7), (2, 1), (2, 6, 1), (2, 2, 3)], ids=str)
def test_inputs_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"^x must be \(B, 6\), got \("):
        MLP([6, 4]).forward(torch.zeros(shape))


@pytest.mark.parametrize("sizes", SIZES[:2])
@pytest.mark.parametrize("shape", [(4,), (7, 3), (7, 5), (6, 4), (1, 4), (7, 1)], ids=str)
def test_output_gradients_of_another_shape(sizes, shape):
    net = MLP(sizes)
    _, cache = net.forward(torch.zeros(7, 6))
    net.flat_grad.fill_(1)
    with pytest.raises(ValueError, match=r"^dlogits must be \(7, 4\), got \("):
        net.backward(torch.zeros(shape), cache)
    assert (net.flat_grad == 1).all()
