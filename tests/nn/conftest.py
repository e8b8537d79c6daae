"""Oracles for gradients: autograd's tensors, central differences, and the same network built of torch.nn modules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

ORACLE_TOLERANCE = 1e-10
DIFFERENCE_TOLERANCE = 1e-7  # at float64's best step: truncation and rounding are both near eps^(2/3) = 4e-11
DIFFERENCE_STEP = torch.finfo(torch.float64).eps ** (1 / 3)

TORCH_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    # torch replaces softplus by z above its threshold; at its default of 20 that is an error of 1e-10.
    "softplus": lambda: nn.Softplus(threshold=80),
}


def check_against_oracle(name: str, value: Tensor, oracle: Tensor, tolerance: float = ORACLE_TOLERANCE) -> None:
    """``value`` has the oracle's shape and type, and no error above ``tolerance`` times the oracle's largest entry."""
    assert value.shape == oracle.shape, f"{name}: shape {tuple(value.shape)}, expected {tuple(oracle.shape)}"
    assert value.dtype == oracle.dtype, f"{name}: {value.dtype}, expected {oracle.dtype}"
    if not oracle.numel():
        return
    error = float((value - oracle).abs().max())
    largest = float(oracle.abs().max())
    # `not <=` rather than `>`, so that NaN fails.
    if not error <= tolerance * largest:
        raise AssertionError(f"{name}: largest error {error:.3e}, of entries up to {largest:.3e}; allowed {tolerance}")


def check_central_differences(
    name: str, scalar: Callable[[Tensor], Tensor], at: Tensor, gradient: Tensor, samples: int = 6
) -> None:
    """(s(x + h) − s(x − h)) / 2h at sampled entries of ``at`` agrees with ``gradient``."""
    assert gradient.shape == at.shape
    entries = torch.randperm(at.numel(), generator=torch.Generator().manual_seed(0))[:samples]
    differences = []
    for entry in entries:
        sides = []
        for h in (DIFFERENCE_STEP, -DIFFERENCE_STEP):
            moved = at.clone()
            moved.view(-1)[entry] += h
            sides.append(scalar(moved))
        differences.append((sides[0] - sides[1]) / (2 * DIFFERENCE_STEP))
    expected = torch.stack(differences)
    error = float((gradient.reshape(-1)[entries] - expected).abs().max())
    scale = max(1.0, float(gradient.abs().max()))
    assert error <= DIFFERENCE_TOLERANCE * scale, f"{name}: largest error {error:.3e} against central differences"


class Masked(nn.Module):
    """What is left by a mask of zeros and scales, drawn elsewhere."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, a: Tensor) -> Tensor:
        return a * self.mask


def torch_norm(net, k: int) -> nn.Module:
    """torch's norm of layer k, with what ``net``'s state dict says of it."""
    norm = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[net.norm](net.sizes[k + 1], dtype=net.flat.dtype)
    state = {name.removeprefix(f"norms.{k}."): value for name, value in net.state_dict().items()}
    norm.load_state_dict({name: value for name, value in state.items() if name in norm.state_dict()}, strict=False)
    return norm


def torch_twin(net, masks=()) -> nn.Sequential:
    """torch.nn.Sequential of plain layers with the weights of ``net``, tracked by autograd, in training mode."""
    modules: list[nn.Module] = []
    masks = masks or [None] * len(net.layers)
    for k, layer in enumerate(net.layers):
        if masks[k] is not None:
            modules.append(Masked(masks[k]))
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], dtype=layer.weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(layer.weight)
            linear.bias.copy_(layer.bias)
        modules.append(linear)
        if k < len(net.norms):
            modules.append(torch_norm(net, k))
        if k < len(net.layers) - 1:
            modules.append(TORCH_ACTIVATIONS[net.activation]())
    return nn.Sequential(*modules)


# Plain functions, handed out as session fixtures so that hypothesis may use them as well.
@pytest.fixture(scope="session")
def assert_oracle():
    return check_against_oracle


@pytest.fixture(scope="session")
def assert_differences():
    return check_central_differences


@pytest.fixture(scope="session")
def twin():
    return torch_twin


@pytest.fixture(scope="session")
def torch_activation() -> Callable[[str], nn.Module]:
    return lambda name: TORCH_ACTIVATIONS[name]()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
