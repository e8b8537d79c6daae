"""What must hold of any gradient, whatever the network: laws of sums, orders and scales, on random cases."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.engines.passes import LayerDelta
from mlp_lightning.nn import ACTIVATIONS, MLP
from mlp_lightning.nn.losses import MeanSquaredError, SoftmaxCrossEntropy
from mlp_lightning.nn.training_pass import TrainingPass

FEATURES, CLASSES = 3, 4
NORMS = ("none", "batch", "layer")
LOSSES = {
    "cross entropy": SoftmaxCrossEntropy,
    "smoothed, weighted": lambda reduction: SoftmaxCrossEntropy(
        reduction, label_smoothing=0.1, class_weights=torch.tensor([0.5, 1.0, 2.0, 3.0])
    ),
    "mse": MeanSquaredError,
}
seeds, activations = st.integers(0, 2**31), st.sampled_from(sorted(ACTIVATIONS))
few = settings(deadline=None, max_examples=4, derandomize=True)
every_network = pytest.mark.parametrize(("activation", "norm"), list(itertools.product(sorted(ACTIVATIONS), NORMS)))


class Case:
    """A network with random weights, biases and norms, and a minibatch of 8 samples for it."""

    def __init__(self, activation, norm, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.network = MLP(
            [FEATURES, 5, 6, CLASSES], activation, norm=norm, generator=self.generator, dtype=torch.float64
        )
        self.network.flat += 0.3 * self.normal(self.network.flat.shape)
        if self.network.running is not None:
            self.network.running += torch.rand(self.network.running.shape, generator=self.generator).double()
        self.x = self.normal((8, FEATURES))
        self.y = torch.randint(CLASSES, (8,), generator=self.generator)

    def normal(self, shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def trains(self, x):
        return TrainingPass(len(x))


def gradients(network, x, dlogits_of, training=None):
    """The flat gradient and dX, where ``dlogits_of`` gives dLoss/dlogits of the logits."""
    logits, cache = network(x, training)
    dx = network.backward(dlogits_of(logits), cache, input_gradient=True)
    return network.flat_grad.clone(), dx


def of_loss(loss, y, dloss=1.0):
    return lambda logits: loss.backward(loss.forward(logits, y)[1], dloss)


def same(actual, expected):
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11 * scale)


@every_network
@few
@given(seed=seeds, a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_gradients_are_linear_in_dlogits(activation, norm, seed, a, b):
    case = Case(activation, norm, seed)
    u, v = case.normal((8, CLASSES)), case.normal((8, CLASSES))
    parts = [gradients(case.network, case.x, lambda _, d=d: d, case.trains(case.x)) for d in (u, v)]
    whole = gradients(case.network, case.x, lambda _: a * u + b * v, case.trains(case.x))
    for of_sum, of_u, of_v in zip(whole, *parts, strict=True):
        same(of_sum, a * of_u + b * of_v)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", NORMS)
@few
@given(seed=seeds, activation=activations)
def test_the_order_of_samples_matters_to_dx_alone(norm, loss, reduction, seed, activation):
    # Batch norm couples the samples, but its mean and variance know no order either.
    case, made = Case(activation, norm, seed), LOSSES[loss](reduction)
    order = torch.randperm(8, generator=case.generator)
    dw, dx = gradients(case.network, case.x, of_loss(made, case.y), case.trains(case.x))
    x, y = case.x[order], case.y[order]
    permuted_dw, permuted_dx = gradients(case.network, x, of_loss(made, y), case.trains(x))
    same(permuted_dw, dw)
    same(permuted_dx, dx[order])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", NORMS)
@few
@given(seed=seeds, cut=st.integers(1, 7), activation=activations)
def test_the_gradients_of_two_parts_add_up_to_the_whole_s(norm, loss, seed, cut, activation):
    # In training batch norm is the exception: a part has statistics of its own. Its running ones couple nothing.
    case, made = Case(activation, norm, seed), LOSSES[loss]("sum")

    def of(rows):
        x = case.x[rows]
        training = None if norm == "batch" else case.trains(x)
        return gradients(case.network, x, of_loss(made, case.y[rows]), training)

    (dw, dx), (first_dw, first_dx), (rest_dw, rest_dx) = of(slice(None)), of(slice(cut)), of(slice(cut, None))
    same(first_dw + rest_dw, dw)
    same(torch.cat([first_dx, rest_dx]), dx)


@settings(few, max_examples=10)
@given(seed=seeds)
def test_parts_of_a_minibatch_do_not_add_up_under_batch_norm(seed):
    case, made = Case("tanh", "batch", seed), SoftmaxCrossEntropy("sum")

    def of(rows):
        return gradients(case.network, case.x[rows], of_loss(made, case.y[rows]), case.trains(case.x[rows]))[0]

    whole = of(slice(None))
    assert (of(slice(4)) + of(slice(4, None)) - whole).abs().max() > 1e-3 * whole.abs().max()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", NORMS)
@settings(few, max_examples=3)
@given(seed=seeds, factor=st.floats(-100, 100))
def test_scaling_the_loss_scales_the_gradients(norm, loss, reduction, seed, factor):
    case, made = Case("gelu", norm, seed), LOSSES[loss](reduction)
    plain = gradients(case.network, case.x, of_loss(made, case.y), case.trains(case.x))
    scaled = gradients(case.network, case.x, of_loss(made, case.y, factor), case.trains(case.x))
    for one, other in zip(plain, scaled, strict=True):
        same(other, factor * one)


@pytest.mark.parametrize("loss", LOSSES)
@few
@given(seed=seeds)
def test_the_mean_s_gradient_is_the_sum_s_over_the_normalizer(loss, seed):
    case = Case("relu", "none", seed)
    mean, total = (
        gradients(case.network, case.x, of_loss(LOSSES[loss](reduction), case.y))[0] for reduction in ("mean", "sum")
    )
    # By hand: the weights of the samples' classes, or the number of entries.
    n = {"cross entropy": 8.0, "mse": 8.0 * CLASSES}.get(loss, sum([0.5, 1.0, 2.0, 3.0][k] for k in case.y.tolist()))
    same(mean * n, total)


@every_network
@few
@given(seed=seeds)
def test_the_workspace_computes_what_the_network_does(activation, norm, seed):
    case = Case(activation, norm, seed)
    dlogits, workspace = case.normal((8, CLASSES)), NativePasses(case.network)
    expected, _ = gradients(case.network, case.x, lambda _: dlogits, case.trains(case.x))
    logits = case.network(case.x, case.trains(case.x))[0]
    case.network.flat_grad.fill_(float("nan"))
    same(workspace.forward(case.x, case.trains(case.x)), logits)
    for k, dz, a in workspace.backward(dlogits):
        workspace.write_gradient(LayerDelta(k, dz, a))
    same(case.network.flat_grad, expected)
