"""Norms and dropout in a walk: every value is autograd's, in the order and with the formulas of the training."""

import pytest
import torch
import torch.nn.functional as F

from mlp_lightning.commands.explain.command import totals, walk
from mlp_lightning.commands.explain.html import render_html
from mlp_lightning.commands.explain.step import Explanation
from mlp_lightning.commands.explain.text import render_text
from mlp_lightning.training.module import MLPModule

SIZES = (6, 7, 5, 3)
SAMPLES = 8


def make_module(**options):
    module = MLPModule(hidden=list(SIZES[1:-1]), **{"init": "he_notebook", "activation": "tanh", **options})
    module._build(SIZES)
    module.network.double()
    module.network.flat[module.network.weight_numel :].uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
    return module


def make_batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, SIZES[0], generator=generator, dtype=torch.float64)
    return x, torch.randint(SIZES[-1], (SAMPLES,), generator=generator)


def digits(text):
    return text.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789"))


def by_name(steps, *phases):
    return {digits(step.name): step for step in steps if step.phase in phases}


def autograd(module, x, y, step=0):
    """Every intermediate and its gradient, with the masks that training draws."""
    options, state = module.hparams, {k: v.clone().requires_grad_() for k, v in module.network.state_dict().items()}
    dropout = module.make_dropout()
    masks = dropout.masks(step, len(x)) if dropout is not None else [None] * 3
    found, a = {"X": x}, x
    for k in range(1, 4):
        if masks[k - 1] is not None:
            a = found[f"D{k - 1}"] = a * masks[k - 1]
            if k > 1:
                a.retain_grad()
        z = F.linear(a, state[f"layers.{k - 1}.weight"], state[f"layers.{k - 1}.bias"])
        z.retain_grad()
        if k == 3:
            break
        found[f"Z{k}"] = n = z
        if options["norm"] != "none":
            gamma, beta = state[f"norms.{k - 1}.weight"], state[f"norms.{k - 1}.bias"]
            axis = 0 if options["norm"] == "batch" else 1
            found[f"μ{k}"], found[f"σ²{k}"] = z.mean(axis), z.var(axis, correction=0)
            if options["norm"] == "batch":
                found[f"Ẑ{k}"] = F.batch_norm(z, None, None, training=True)
                n = F.batch_norm(z, None, None, gamma, beta, training=True)
            else:
                found[f"Ẑ{k}"] = F.layer_norm(z, z.shape[1:])
                n = F.layer_norm(z, z.shape[1:], gamma, beta)
            n.retain_grad()
            found[f"N{k}"] = n
        a = found[f"A{k}"] = torch.tanh(n)
        a.retain_grad()
    found |= {"logits": z, "P": F.softmax(z, 1), "L": F.cross_entropy(z, y)}
    found["L"].backward()
    gradients = {f"d{name}": found[name].grad for name in found if name[0] in "ZNAl" or name in ("D1", "D2")}
    for k in range(3):
        gradients |= {f"dW{k + 1}": state[f"layers.{k}.weight"].grad, f"db{k + 1}": state[f"layers.{k}.bias"].grad}
        if options["norm"] != "none" and k < 2:
            gradients |= {f"dγ{k + 1}": state[f"norms.{k}.weight"].grad, f"dβ{k + 1}": state[f"norms.{k}.bias"].grad}
    return {name: value.detach() for name, value in (found | gradients).items()}


@pytest.mark.parametrize("step", [0, 4])
@pytest.mark.parametrize(("p", "input_p"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.3), (0.4, 0.3)])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_every_value_is_autograds(norm, p, input_p, step):
    module, (x, y) = make_module(norm=norm, dropout=p, input_dropout=input_p), make_batch()
    steps = by_name(walk(module, x, y, 2, step=step), "forward", "loss", "backward")
    expected = autograd(module, x, y, step)
    assert steps.keys() == expected.keys()
    for name, value in expected.items():
        got = steps[name].value.view(value.shape)
        torch.testing.assert_close(got, value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_formulas_stand_in_the_order_of_the_computation():
    steps = walk(make_module(norm="batch", dropout=0.4, input_dropout=0.3), *make_batch(), 2)
    assert [step.formula for step in steps if step.phase in ("forward", "backward")] == [
        "X = the samples of the minibatch, one a row",
        "D₀ = X ⊙ M₀, what dropout leaves of X",
        "Z₁ = D₀ W₁ᵀ + b₁",
        "μ₁ = Σᵢ Z₁ / B, for each unit",
        "σ²₁ = Σᵢ (Z₁ − μ₁)² / B, for each unit",
        "Ẑ₁ = (Z₁ − μ₁) / √(σ²₁ + ε),  ε = 1e−05",
        "N₁ = γ₁ · Ẑ₁ + β₁",
        "A₁ = tanh(N₁)",
        "D₁ = A₁ ⊙ M₁, what dropout leaves of A₁",
        "Z₂ = D₁ W₂ᵀ + b₂",
        "μ₂ = Σᵢ Z₂ / B, for each unit",
        "σ²₂ = Σᵢ (Z₂ − μ₂)² / B, for each unit",
        "Ẑ₂ = (Z₂ − μ₂) / √(σ²₂ + ε),  ε = 1e−05",
        "N₂ = γ₂ · Ẑ₂ + β₂",
        "A₂ = tanh(N₂)",
        "D₂ = A₂ ⊙ M₂, what dropout leaves of A₂",
        "logits = Z₃ = D₂ W₃ᵀ + b₃",
        "dlogits = dZ₃ = (softmax(logits) − onehot(y)) · 1/B",
        "dW₃ = dZ₃ᵀ D₂",
        "db₃ = Σᵢ dZ₃",
        "dD₂ = dZ₃ W₃",
        "dA₂ = dD₂ ⊙ M₂",
        "dN₂ = dA₂ · tanh′(N₂)",
        "dγ₂ = Σᵢ dN₂ · Ẑ₂",
        "dβ₂ = Σᵢ dN₂",
        "dZ₂ = γ₂ / √(σ²₂ + ε) · (dN₂ − dβ₂/B − Ẑ₂ · dγ₂/B)",
        "dW₂ = dZ₂ᵀ D₁",
        "db₂ = Σᵢ dZ₂",
        "dD₁ = dZ₂ W₂",
        "dA₁ = dD₁ ⊙ M₁",
        "dN₁ = dA₁ · tanh′(N₁)",
        "dγ₁ = Σᵢ dN₁ · Ẑ₁",
        "dβ₁ = Σᵢ dN₁",
        "dZ₁ = γ₁ / √(σ²₁ + ε) · (dN₁ − dβ₁/B − Ẑ₁ · dγ₁/B)",
        "dW₁ = dZ₁ᵀ D₀",
        "db₁ = Σᵢ dZ₁",
    ]


def test_shapes_end_with_that_of_the_result():
    for norm in ("batch", "layer"):
        module = make_module(norm=norm, dropout=0.4, input_dropout=0.3)
        steps = by_name(walk(module, *make_batch()), "forward", "backward")
        for step in steps.values():
            assert step.shapes.endswith(str(tuple(step.value.shape)))
    assert steps["σ²1"].shapes == "(8, 7) → (8, 1)"
    assert steps["μ2"].numbers == "H = 5"


def test_kept_entries_are_counted():
    step = by_name(walk(make_module(dropout=0.5), *make_batch()), "forward")["D1"]
    kept = int((step.value != 0).sum())
    assert step.numbers == f"{kept} of 56 entries are kept, each times 2"


def test_the_update_moves_norms_too():
    module, (x, y) = make_module(norm="layer", optimizer="sgd", lr=0.1), make_batch()
    steps = walk(module, x, y)
    found, expected = by_name(steps, "update"), autograd(module, x, y)
    for name in ("γ1", "β1", "γ2", "β2", "W2", "b3"):
        torch.testing.assert_close(found[f"Δ{name}"].value, -0.1 * expected[f"d{name}"])
    assert steps[[step.name for step in steps].index("g")].formula.startswith("g = (dW₁, …, dW₃, db₁, …, db₃, dγ₁, …")
    assert totals(steps, module.network)[-1][1] == "131: 92 weights, 15 biases, 24 γ and β"


def test_afterwards_the_masks_are_the_same():
    """A step too small to matter leaves the loss where it was."""
    module, (x, y) = make_module(norm="batch", dropout=0.5, optimizer="sgd", lr=1e-9), make_batch()
    steps = walk(module, x, y)
    before, after = by_name(steps, "loss")["L"].value, by_name(steps, "afterwards")["L"].value
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


def test_running_statistics_are_left_alone():
    module = make_module(norm="batch")
    before = module.network.running.clone()
    walk(module, *make_batch())
    assert torch.equal(module.network.running, before)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_text_and_page_show_it(norm):
    module = make_module(norm=norm, dropout=0.4, input_dropout=0.3)
    steps = walk(module, *make_batch(), 2, image_shape=(2, 3))
    explanation = Explanation("title", [("a", "b")], steps, totals(steps, module.network))
    text, page = render_text(explanation), render_html(explanation)
    assert max(map(len, text.splitlines())) <= 100
    for symbol in ("Ẑ₁", "dγ₂", "D₀ = X ⊙ M₀"):
        assert symbol in text
        assert symbol in page
