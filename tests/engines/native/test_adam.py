import shutil

import pytest
import torch
from torch import nn

from mlp_lightning.engines.native.adam import adam_step
from mlp_lightning.engines.native.compile import compilation
from mlp_lightning.engines.native.library import library
from mlp_lightning.optim import Adam, AdamW, NAdam

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture
def fresh():
    """Forget what was compiled, before and after."""
    for cached in (compilation, library, adam_step):
        cached.cache_clear()
    yield
    for cached in (compilation, library, adam_step):
        cached.cache_clear()


def train(rule, numel, steps, threads=1, one_pass=None, **options):
    """Weights after some steps in float32 on gradients drawn from a fixed seed, by the rule in C."""
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(numel, generator=generator), requires_grad=False)
    optimizer = rule([p], lr=0.01, **options)
    optimizer.one_pass = one_pass or adam_step()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(steps):
            p.grad = torch.randn(numel, generator=generator)
            optimizer.step()
    finally:
        torch.set_num_threads(before)
    return p, optimizer


def oracle(reference, numel, steps, **options):
    """The same gradients through torch's rule in float64."""
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(numel, generator=generator).double())
    optimizer = reference([p], lr=0.01, **options)
    for _ in range(steps):
        p.grad = torch.randn(numel, generator=generator).double()
        optimizer.step()
    return p.detach()


@needs_compiler
@pytest.mark.parametrize("numel", [1, 5, 4096, 4097, 100_003])
@pytest.mark.parametrize(
    ("rule", "reference", "options"),
    [
        pytest.param(Adam, torch.optim.Adam, {}, id="adam"),
        pytest.param(Adam, torch.optim.Adam, {"weight_decay": 0.1}, id="adam-decay"),
        pytest.param(AdamW, torch.optim.AdamW, {"weight_decay": 0.1}, id="adamw"),
        pytest.param(NAdam, torch.optim.NAdam, {"weight_decay": 0.1}, id="nadam-decay"),
    ],
)
def test_follows_torch_in_float64(rule, reference, options, numel):
    calls = []
    step = adam_step()

    def counted(*args):
        calls.append(1)
        return step(*args)

    p, _ = train(rule, numel, 50, one_pass=counted, **options)
    assert len(calls) == 50
    torch.testing.assert_close(p.detach().double(), oracle(reference, numel, 50, **options), rtol=2e-6, atol=2e-6)


@needs_compiler
def test_means_too_small_for_a_float_are_0():
    """Of a gradient that has become 0, which decay for ever: below 1.2e-38 they would only cost time."""
    p = nn.Parameter(torch.ones(10_000), requires_grad=False)
    optimizer = Adam([p], lr=0.01)
    optimizer.one_pass = adam_step()
    for gradient in (1e-37, 0.0, 0.0, 0.0):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
    m, v, _ = optimizer.moments(p)
    assert m.count_nonzero() == v.count_nonzero() == 0


@needs_compiler
def test_a_gradient_that_c_does_not_take_is_torchs():
    p = nn.Parameter(torch.ones(4, 5), requires_grad=False)
    optimizer = Adam([p], lr=0.01)
    optimizer.one_pass = adam_step()
    p.grad = torch.randn(5, 4).t()
    optimizer.step()
    assert not torch.equal(p, torch.ones(4, 5))


@needs_compiler
def test_bits_do_not_depend_on_threads():
    one, state_one = train(Adam, 100_003, 5, threads=1)
    two, state_two = train(Adam, 100_003, 5, threads=2)
    assert torch.equal(one, two)
    for name in ("first_moment", "second_moment"):
        assert torch.equal(state_one.state[one][name], state_two.state[two][name])


def test_rules_work_without_a_compiler(monkeypatch, fresh):
    monkeypatch.setenv("CC", "")
    assert adam_step() is None
    p, _ = train(Adam, 100, 50)
    torch.testing.assert_close(p.detach().double(), oracle(torch.optim.Adam, 100, 50), rtol=2e-6, atol=2e-6)
