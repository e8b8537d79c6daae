"""The one flat parameter: its views, its names in a state dict, and its copies."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn

from mlp_lightning.nn import MLP, SoftmaxCrossEntropy

SIZES = (5, 7, 6, 3)
SHAPES = {
    "layers.0.weight": (7, 5),
    "layers.0.bias": (7,),
    "layers.1.weight": (6, 7),
    "layers.1.bias": (6,),
    "layers.2.weight": (3, 6),
    "layers.2.bias": (3,),
}
X = torch.linspace(-1, 1, 20).view(4, 5)
Y = torch.tensor([0, 1, 2, 1])


def network(seed: int = 0) -> MLP:
    return MLP(SIZES, init="he_notebook", generator=torch.Generator().manual_seed(seed))


def step(net: MLP, x: Tensor = X) -> None:
    """One step of gradient descent; the loss on the same batch must fall."""
    loss = SoftmaxCrossEntropy()
    logits, cache = net.forward(x)
    before, loss_cache = loss.forward(logits, Y)
    net.backward(loss.backward(loss_cache), cache)
    net.flat.add_(net.flat_grad, alpha=-0.05)
    after, _ = loss.forward(net.forward(x)[0], Y)
    assert after < before


def assert_shares_storage(net: MLP) -> None:
    """Every view lies in ``flat`` or ``flat_grad``, in order, and together they fill them."""
    parameters = [layer.weight for layer in net.layers] + [layer.bias for layer in net.layers]
    grads = [layer.dweight for layer in net.layers] + [layer.dbias for layer in net.layers]
    for flat, views in ((net.flat, parameters), (net.flat_grad, grads)):
        address = flat.data_ptr()
        for view in views:
            assert view.data_ptr() == address
            assert view.is_contiguous()
            assert view.dtype == flat.dtype
            address += view.numel() * view.element_size()
        assert address == flat.data_ptr() + flat.numel() * flat.element_size()


def test_layout():
    net = network()
    assert [name for name, _ in net.named_parameters()] == ["flat"]
    assert list(net.buffers()) == []
    assert_shares_storage(net)
    assert net.weight_numel == 5 * 7 + 7 * 6 + 6 * 3
    weights = torch.cat([layer.weight.flatten() for layer in net.layers])
    assert torch.equal(net.flat[: net.weight_numel], weights)
    assert torch.equal(net.flat[net.weight_numel :], torch.cat([layer.bias for layer in net.layers]))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_layout_with_norms(norm):
    net = MLP(SIZES, norm=norm)
    parts = [
        *(layer.weight.flatten() for layer in net.layers),
        *(layer.bias for layer in net.layers),
        *(norm.gamma for norm in net.norms),
        *(norm.beta for norm in net.norms),
    ]
    assert torch.equal(net.flat, torch.cat(parts))
    assert [part.data_ptr() for part in parts] == [
        net.flat.data_ptr() + 4 * start for start in itertools.accumulate([0, *map(len, parts[:-1])])
    ]
    assert net.weight_numel == network().weight_numel
    assert torch.equal(net.flat[: net.weight_numel], MLP(SIZES).flat[: net.weight_numel])
    assert [(norm.gamma.unique().item(), norm.beta.unique().item()) for norm in net.norms] == [(1, 0)] * 2
    assert [len(list(net.buffers())), len(list(net.parameters()))] == [int(norm == "batch"), 1]


@pytest.mark.parametrize(("norm", "plain"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_names_of_norms_are_those_of_torchs_modules(norm, plain):
    net = MLP(SIZES, norm=norm)
    net.flat.normal_(generator=torch.Generator().manual_seed(0))
    modules = nn.ModuleDict(
        {
            "layers": nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(SIZES)),
            "norms": nn.ModuleList(plain(width) for width in SIZES[1:-1]),
        }
    )
    missing, unexpected = modules.load_state_dict(net.state_dict(), strict=False)
    assert unexpected == []
    assert all(name.endswith("num_batches_tracked") for name in missing)
    back = MLP(SIZES, norm=norm)
    state = {name: value for name, value in modules.state_dict().items() if not name.endswith("tracked")}
    back.load_state_dict(state)
    assert torch.equal(back.flat, net.flat)


def test_a_state_dict_without_norms_does_not_serve_a_network_with_them():
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"norms\.0\.weight\""):
        MLP(SIZES, norm="layer").load_state_dict(network().state_dict())


@pytest.mark.parametrize("move", [lambda net: net.double(), copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_norms_follow_their_storage(move):
    net = MLP(SIZES, norm="batch")
    assert len(net.norms) == 2
    moved = move(net)
    moved.norms[0].running_mean.fill_(3)
    moved.norms[1].gamma.fill_(4)
    assert moved.running[0].tolist() == [3] * 7 + [0] * 6
    assert moved.flat[-2 * 13 :][7:13].tolist() == [4] * 6
    assert moved.norms[0].running_mean.dtype == moved.flat.dtype


def test_writing_a_view_changes_flat_and_the_reverse():
    net = network()
    net.layers[1].weight[2, 3] = 42.0
    assert net.flat[5 * 7 + 2 * 7 + 3] == 42.0
    net.flat[-1] = -42.0
    assert net.layers[2].bias[2] == -42.0


def test_state_dict_has_the_names_and_shapes_of_plain_layers():
    state = network().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == SHAPES
    assert list(state) == list(SHAPES)


def test_state_dict_copies_nothing():
    net = network()
    state = net.state_dict()
    net.flat.zero_()
    assert not any(value.any() for value in state.values())


def test_plain_layers_load_it(assert_oracle):
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:-1]:
                x = torch.relu(layer(x))
            return self.layers[-1](x)

    net, plain = network(), Plain()
    plain.load_state_dict(net.state_dict())
    assert_oracle("logits", net.forward(X)[0], plain(X).detach(), 1e-6)
    back = network(seed=1)
    back.load_state_dict(plain.state_dict())
    assert torch.equal(back.flat, net.flat)


@pytest.mark.parametrize("assign", [False, True], ids=["copy", "assign"])
def test_load_copies_into_flat(assign):
    source, net = network(seed=1), network()
    flat, address = net.flat, net.flat.data_ptr()
    net.load_state_dict(source.state_dict(), assign=assign)
    assert net.flat is flat
    assert net.flat.data_ptr() == address
    assert torch.equal(net.flat, source.flat)
    assert_shares_storage(net)
    step(net)
    assert torch.equal(source.flat, network(seed=1).flat), "the source follows the network that loaded it"


def test_load_of_tracked_and_of_wider_values():
    tracked = {name: value.double().requires_grad_() for name, value in network(seed=1).state_dict().items()}
    net = network()
    net.load_state_dict(tracked)
    assert torch.equal(net.flat, network(seed=1).flat)
    assert net.flat.dtype == torch.float32
    step(net)
    assert net.forward(X)[0].grad_fn is None


@pytest.mark.parametrize("prefix", ["", "network."], ids=["alone", "inside-a-module"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda state, p: state.pop(f"{p}layers.1.bias"), "Missing key.*layers.1.bias", id="missing"),
        pytest.param(
            lambda state, p: state.update({f"{p}layers.3.weight": torch.zeros(1)}),
            "Unexpected key.*layers.3.weight",
            id="unexpected",
        ),
        pytest.param(lambda state, p: state.update({f"{p}flat": torch.zeros(1)}), "Unexpected key.*flat", id="flat"),
        pytest.param(
            lambda state, p: state.update({f"{p}layers.0.weight": torch.zeros(5, 7)}),
            r"size mismatch for (network\.)?layers.0.weight: \(5, 7\) given, \(7, 5\) needed",
            id="transposed",
        ),
        pytest.param(
            lambda state, p: state.update({f"{p}layers.0.bias": torch.zeros(())}),
            r"size mismatch for (network\.)?layers.0.bias: \(\) given, \(7,\) needed",
            id="would-broadcast",
        ),
    ],
)
def test_strict_load_errors(change, message, prefix):
    module = nn.ModuleDict({"network": network()}) if prefix else network()
    state = module.state_dict()
    change(state, prefix)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        module.load_state_dict(state)


def test_load_that_is_not_strict_reports_and_takes_the_rest():
    state = network(seed=1).state_dict()
    del state["layers.0.weight"]
    state["other"] = torch.zeros(1)
    net = network()
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["layers.0.weight"]
    assert result.unexpected_keys == ["other"]
    assert torch.equal(net.layers[0].weight, network().layers[0].weight)
    assert torch.equal(net.layers[2].weight, network(seed=1).layers[2].weight)


def deep_copied(net: MLP) -> MLP:
    return copy.deepcopy(net)


def pickled(net: MLP) -> MLP:
    return pickle.loads(pickle.dumps(net))


def saved(net: MLP) -> MLP:
    """Through a file that holds tensors only."""
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    loaded = network(seed=9)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    return loaded


@pytest.mark.parametrize("duplicate", [deep_copied, pickled, saved])
def test_copies_are_equal_and_independent(duplicate):
    net = network()
    step(net)
    twin = duplicate(net)
    assert torch.equal(twin.flat, net.flat)
    assert_shares_storage(twin)
    before, old_grad = net.flat.clone(), net.flat_grad.clone()
    step(twin)
    assert torch.equal(net.flat, before)
    assert torch.equal(net.flat_grad, old_grad)
    step(net)
    assert torch.equal(twin.flat, net.flat)


def test_state_dict_is_saved_once():
    net = MLP([100, 100, 100])
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    assert len(file.getvalue()) < 1.2 * net.flat.numel() * 4


def test_pickle_holds_the_parameter_alone():
    net = MLP([100, 100, 100])
    assert net.flat_grad.shape == net.flat.shape
    assert len(pickle.dumps(net)) < 1.2 * net.flat.numel() * 4


@pytest.mark.parametrize("swap", [False, True], ids=["set-data", "swap-tensors"])
def test_views_follow_a_change_of_type(swap):
    net = network()
    expected = net.flat.double()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        net.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert torch.equal(net.flat, expected)
    assert net.flat.dtype == net.flat_grad.dtype == torch.float64
    assert_shares_storage(net)
    step(net, X.double())


def test_views_follow_replaced_data():
    net, other = network(), network(seed=1)
    net.flat.data = other.flat.detach().clone()
    assert torch.equal(net.layers[0].weight, other.layers[0].weight)
    assert_shares_storage(net)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("init", ["he_normal", "orthogonal"])
def test_dtype(dtype, init):
    net = MLP(SIZES, init=init, dtype=dtype)
    assert net.flat.dtype == dtype
    assert net.forward(X.to(dtype))[0].dtype == dtype


def test_averaged_model():
    net = network()
    averaged = torch.optim.swa_utils.AveragedModel(net)
    flats = []
    for _ in range(3):
        step(net)
        averaged.update_parameters(net)
        flats.append(net.flat.detach().clone())
    assert_shares_storage(averaged.module)
    torch.testing.assert_close(averaged.module.flat.detach(), torch.stack(flats).mean(0))
    assert {f"module.{name}" for name in SHAPES} < set(averaged.state_dict())
    restored = torch.optim.swa_utils.AveragedModel(network(seed=1))
    restored.load_state_dict(averaged.state_dict())
    assert torch.equal(restored.module.flat, averaged.module.flat)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad], ids=["inference", "no_grad"])
def test_views_made_under_evaluation_serve_training(context):
    net = copy.deepcopy(network())  # a copy has no views yet
    with context():
        net.forward(X)
        state = net.state_dict()
    assert not net.flat_grad.is_inference()
    step(net)
    net.layers[0].weight.zero_()
    net.load_state_dict(state)
    step(net)
    # Lightning resets gradients around validation, so that training points flat.grad at this tensor before each step.
    net.flat.grad = net.flat_grad
    torch.optim.SGD([net.flat], lr=0.1).step()


def test_flat_grad_keeps_its_place():
    net = network()
    address = net.flat_grad.data_ptr()
    step(net)
    step(net)
    assert net.flat_grad.data_ptr() == address
