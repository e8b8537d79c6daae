"""The comparison of an update rule with its counterpart in torch.optim, each on its own trajectory."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SHAPES = ((7,), (3, 4), (), (2, 1, 5))


def run(factory: Factory, steps: int, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[Tensor]:
    """Parameters after ``steps`` steps from fixed starts, where g = θ/2 + a fixed noise: a pull that feeds back."""
    generator = torch.Generator().manual_seed(0)
    params = [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64), requires_grad=False)
        for shape in shapes
    ]
    optimizer = factory(params)
    for _ in range(steps):
        for p in params:
            p.grad = 0.5 * p + torch.randn(p.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """torch's NAdam keeps its product of momenta in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def assert_same_path() -> Callable[[Factory, Factory, int, float], None]:
    """Both optimizers end at the same parameters, to a relative and absolute ``tolerance``."""

    def check(ours: Factory, theirs: Factory, steps: int, tolerance: float) -> None:
        for p, expected in zip(run(ours, steps), run(theirs, steps), strict=True):
            torch.testing.assert_close(p, expected, rtol=tolerance, atol=tolerance)

    return check
