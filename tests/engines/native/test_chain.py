"""A whole ReLU network in C: in float32 against the simple passes in float64, mixed against its rounding by hand."""

import copy
import pickle

import pytest
import torch

from mlp_lightning.engines.native.chain import has_chain
from mlp_lightning.engines.native.passes import NativePasses
from mlp_lightning.engines.passes import LayerDelta, LinearStep
from mlp_lightning.nn import MLP

FEW_ROWS = 16  # from which on zeros are passed over here
SIZES = [(5, 3), (20, 150, 90, 4), (33, 7, 1, 12, 2), (1100, 70, 2)]
needs_chain = pytest.mark.skipif(not has_chain(is_mixed=False), reason="no compiler or BLAS")


def network(sizes):
    return MLP(sizes, "relu", "he_normal", generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def minibatch(rows, sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, sizes[0], generator=generator), torch.randn(rows, sizes[-1], generator=generator)


def rounded(tensor, dtype):
    """In float64, as the products see it."""
    return (tensor if dtype is None else tensor.to(dtype)).double()


def oracle(net, x, dlogits, dtype):
    """The logits, and dW and db of each layer, from the formulas, with every operand rounded by hand."""
    inputs, layers = [rounded(x, dtype)], net.layers
    for k, layer in enumerate(layers):
        z = inputs[-1] @ rounded(layer.weight, dtype).t() + layer.bias.double()
        if k < len(layers) - 1:
            inputs.append(rounded(z.float().relu(), dtype))
    gradients, dz = [], dlogits.double()
    for k in range(len(layers) - 1, -1, -1):
        gradients.insert(0, (rounded(dz.float(), dtype).t() @ inputs[k], dz.sum(0)))
        if k > 0:
            da = rounded(dz.float(), dtype) @ rounded(layers[k].weight, dtype)
            dz = torch.where(inputs[k] > 0, da, 0)
    return z, gradients


def close(ours, expected, dtype):
    # A sum in another order may round an operand of the next product to the other neighbour.
    tolerance = 1e-5 if dtype is None else 4e-3
    torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def close_gradients(net, expected, dtype):
    for layer, (dweight, dbias) in zip(net.layers, expected, strict=True):
        close(layer.dweight, dweight, dtype)
        close(layer.dbias, dbias, dtype)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 200])
def test_logits_and_gradients(dtype, rows, sizes, threads):
    net = network(sizes)
    x, dlogits = minibatch(rows, sizes)
    kept = x.clone(), dlogits.clone()
    expected, gradients = oracle(net, x, dlogits, dtype)
    workspace = NativePasses(net, dtype)
    close(workspace.forward(x), expected, dtype)
    assert workspace.is_native
    net.flat_grad.fill_(float("nan"))
    total = workspace.write_gradients(dlogits)
    close_gradients(net, gradients, dtype)
    assert total == pytest.approx(sum(float(layer.dbias.double().sum()) for layer in net.layers), rel=1e-4, abs=1e-4)
    assert torch.equal(x, kept[0])
    assert torch.equal(dlogits, kept[1])


@pytest.mark.parametrize("descends", [False, True])
def test_bits_do_not_depend_on_which_thread_makes_what(dtype, descends):
    """Threads share work out as they come to it; five on fewer cores wait for each other in every order.

    BLAS is not asked for the same bits from other parts of a matrix: in float32 it is the products without zeros.
    """
    sizes = (40, 700, 300, 4) if dtype else (40, 700, 300, 70)
    x, dlogits = minibatch(150, sizes)
    x = with_zeros(x)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5, 5, 5):
            torch.set_num_threads(threads)
            net = network(sizes) if dtype else quiet(network(sizes), x)
            workspace = NativePasses(net, dtype)
            for _ in range(4):
                found.append(workspace.forward(x).clone())
                assert dtype or passes_over_zeros(workspace, x) == [True] * 3
                if descends:
                    workspace.update_in_products(dlogits, LinearStep(-0.001, 0.99, 1.0))
                else:
                    workspace.write_gradients(dlogits)
            found.append(torch.cat([net.flat.detach(), net.flat_grad]))
    finally:
        torch.set_num_threads(before)
    first, *others = (found[i : i + 5] for i in range(0, len(found), 5))
    assert all(torch.equal(*pair) for other in others for pair in zip(first, other, strict=True))


@needs_chain
@pytest.mark.parametrize("answering", [(0.08, 0.6, 0.08), (0.6, 0.08, 0.6)], ids=str)
def test_layers_with_zeros_and_without_wait_for_each_other(answering):
    """Where there are samples enough for all threads, each does its own, but for layers whose input is mostly 0."""
    sizes = (40, 130, 200, 300, 4)
    x, dlogits = minibatch(340, sizes)
    net = quiet(network(sizes), x, *answering)
    expected, gradients = oracle(net, x, dlogits, None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        workspace = NativePasses(net)
        for _ in range(20):
            # What an earlier pass left must not do for what is not there yet.
            workspace.forward(torch.zeros_like(x))
            workspace.write_gradients(torch.zeros_like(dlogits))
            close(workspace.forward(x), expected, None)
            assert passes_over_zeros(workspace, x) == [False, *(share < 0.2 for share in answering[:2]), False]
            workspace.write_gradients(dlogits)
            close_gradients(net, gradients, None)
    finally:
        torch.set_num_threads(before)


def test_a_step_is_made_of_the_gradient_that_it_would_have_written(dtype):
    sizes, share, keep, keep_bias = SIZES[1], -0.1, 0.9, 1.0
    net = network(sizes)
    x, dlogits = minibatch(50, sizes)
    workspace = NativePasses(net, dtype)
    workspace.forward(x)
    workspace.write_gradients(dlogits)
    expected = []
    for weight, bias, dweight, dbias in net.layers:
        expected += [keep * weight.double() + share * dweight.double(), keep_bias * bias.double() + share * dbias]
    gradient = net.flat_grad.clone()
    net.flat_grad.zero_()
    workspace.forward(x)
    total = workspace.update_in_products(dlogits, LinearStep(share, keep, keep_bias), keep_gradient=True)
    assert torch.equal(net.flat_grad, gradient)
    for ours, theirs in zip((t for layer in net.layers for t in layer[:2]), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    assert total == pytest.approx(sum(float(layer.bias.double().sum()) for layer in net.layers), rel=1e-4, abs=1e-5)


def test_layer_by_layer_it_hands_out_the_same(dtype):
    net = network(SIZES[1])
    x, dlogits = minibatch(40, SIZES[1])
    workspace = NativePasses(net, dtype)
    workspace.forward(x)
    workspace.write_gradients(dlogits)
    gradient = net.flat_grad.clone()
    for k, dz, a in workspace.backward(dlogits):
        workspace.write_gradient(LayerDelta(k, dz, a))
    if dtype is None:
        assert torch.equal(net.flat_grad, gradient)
    else:
        close(net.flat_grad, gradient.double(), dtype)


def with_zeros(x, share=0.2, seed=3):
    """Of four features side by side all are left with a probability, as in pictures of digits."""
    quads = torch.rand(x.shape[0], x.shape[1] // 4, generator=torch.Generator().manual_seed(seed)) < share
    return x * quads.repeat_interleave(4, 1)


def quiet(net, x, *shares):
    """Let so large a share of each hidden layer's units answer to X, by their biases; few where none is given."""
    for layer, share in zip(net.layers[:-1], shares or [0.08] * len(net.layers), strict=False):
        z = x @ layer.weight.T
        layer.bias.detach().copy_(-z.quantile(1 - share, 0))
        x = (z + layer.bias).relu()
    return net


def passes_over_zeros(workspace, x):
    """Of each layer, whether it passed over the zeros of its input."""
    (chain,) = (chain for *_, chain in workspace._chains.values() if chain._x is x)
    return [bool(layer.is_sparse) for layer in chain._of_zeros]


@needs_chain
@pytest.mark.parametrize("sizes", [(12, 3), (20, 150, 90, 4), (36, 130, 2), (784, 40, 10)], ids=str)
@pytest.mark.parametrize("rows", [16, 64, 130])
def test_what_is_0_in_the_input_is_passed_over(rows, sizes, threads):
    net = network(sizes)
    x, dlogits = minibatch(rows, sizes)
    x = with_zeros(x)
    # A feature that no sample has, and zeros with a sign.
    x[:, 4:8], x[:, 0] = 0, torch.where(x[:, 0] == 0, -0.0, x[:, 0])
    expected, gradients = oracle(net, x, dlogits, None)
    workspace = NativePasses(net, min_rows_sparse=FEW_ROWS)
    close(workspace.forward(x), expected, None)
    assert passes_over_zeros(workspace, x)[0]
    check_gradients_and_a_step(workspace, x, dlogits, gradients)


@needs_chain
@pytest.mark.parametrize("sizes", [(6, 90, 64, 3), (40, 130, 200, 70), (8, 50, 300, 65, 4)], ids=str)
@pytest.mark.parametrize("rows", [32, 64, 130, 300])
@pytest.mark.parametrize("zeros_in_x", [False, True])
def test_what_relu_leaves_is_passed_over(rows, sizes, zeros_in_x, threads):
    x, dlogits = minibatch(rows, sizes)
    if zeros_in_x and sizes[0] % 4 == 0:
        x = with_zeros(x)
    net = quiet(network(sizes), x)
    expected, gradients = oracle(net, x, dlogits, None)
    workspace = NativePasses(net, min_rows_sparse=FEW_ROWS)
    close(workspace.forward(x), expected, None)
    assert passes_over_zeros(workspace, x)[1:] == [features >= 64 for features in sizes[2:]]
    check_gradients_and_a_step(workspace, x, dlogits, gradients)


def check_gradients_and_a_step(workspace, x, dlogits, gradients):
    """After a pass, of which these are the gradients by an oracle."""
    net = workspace.network
    net.flat_grad.fill_(float("nan"))
    workspace.write_gradients(dlogits)
    close_gradients(net, gradients, None)
    weights = [0.9 * layer.weight.double() - 0.1 * layer.dweight.double() for layer in net.layers]
    workspace.update_in_products(dlogits, LinearStep(-0.1, 0.9, 1.0))
    for layer, weight in zip(net.layers, weights, strict=True):
        close(layer.weight, weight, None)
    # The weights that moved are those that the next pass reads.
    close(workspace.forward(x), oracle(net, x, dlogits, None)[0], None)


@needs_chain
@pytest.mark.parametrize(
    ("sizes", "rows", "share"), [((20, 9, 2), 64, 0.6), ((20, 9, 2), 15, 0.1), ((22, 9, 2), 64, 0.0)], ids=str
)
def test_where_it_would_not_pay_zeros_are_multiplied(sizes, rows, share):
    workspace, (x, _) = NativePasses(network(sizes), min_rows_sparse=FEW_ROWS), minibatch(rows, sizes)
    x = with_zeros(x, share) if sizes[0] % 4 == 0 else torch.zeros_like(x)
    workspace.forward(x)
    assert passes_over_zeros(workspace, x) == [False, False]


@needs_chain
@pytest.mark.parametrize(("features", "rows", "share"), [(70, 64, 0.4), (70, 15, 0.1), (60, 64, 0.1)])
def test_where_it_would_not_pay_what_relu_leaves_is_multiplied(features, rows, share):
    sizes = (20, 150, features)
    x, _ = minibatch(rows, sizes)
    workspace = NativePasses(quiet(network(sizes), x, share), min_rows_sparse=FEW_ROWS)
    workspace.forward(x)
    assert passes_over_zeros(workspace, x) == [False, False]


@needs_chain
def test_passing_over_zeros_gives_a_sample_the_same_bits_in_any_company():
    sizes = (20, 150, 90, 4)
    net, (x, _) = network(sizes), minibatch(130, sizes)
    x = with_zeros(x)
    workspace = NativePasses(net, min_rows_sparse=FEW_ROWS)
    first_hidden = []
    for rows in (130, 70):
        workspace.forward(x[-rows:])
        first_hidden.append(workspace.activations[0][-70:].clone())
    assert torch.equal(*first_hidden)


def test_numbers_too_small_for_a_float_are_0_in_the_passes_alone(dtype, threads):
    """Those between 0 and 1.2e-38, which processors compute with slowly."""
    sizes = SIZES[1]
    net = network(sizes)
    for layer in net.layers:
        layer.weight.detach().fill_(1e10)
    x = torch.full((200, sizes[0]), 1e-39)
    assert net(x)[0].count_nonzero() == 800
    assert NativePasses(net, dtype).forward(x).count_nonzero() == 0
    small = torch.full((1000,), 1e-39)
    assert (2 * small).count_nonzero() == small.numel()


def test_a_sample_that_is_nan_spoils_its_own_logits_alone(dtype, threads):
    net = network(SIZES[1])
    x, _ = minibatch(40, SIZES[1])
    x[33] = float("nan")
    logits = NativePasses(net, dtype).forward(x)
    assert logits.isnan().all(1).nonzero().flatten().tolist() == [33]
    assert logits.isnan().any(1).sum() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_what_is_not_finite_shows_in_the_sum(dtype, value):
    net = network(SIZES[1])
    x, dlogits = minibatch(5, SIZES[1])
    workspace = NativePasses(net, dtype)
    workspace.forward(x)
    dlogits[2, 1] = value
    dlogits[3, 1] = value
    assert not torch.tensor(workspace.write_gradients(dlogits), dtype=torch.float32).isfinite()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda workspace: pickle.loads(pickle.dumps(workspace))])
def test_a_copied_workspace_has_memory_of_its_own(duplicate, dtype):
    net = network(SIZES[1])
    x, dlogits = minibatch(5, SIZES[1])
    workspace = NativePasses(net, dtype)
    logits = workspace.forward(x)
    expected = logits.clone()
    twin = duplicate(workspace)
    assert torch.equal(twin.forward(x), expected)
    twin.write_gradients(dlogits)
    assert twin.network.flat_grad.any()
    assert not net.flat_grad.any()
    assert logits.data_ptr() != twin.forward(2 * x).data_ptr()
    assert torch.equal(logits, expected)
