import re

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from fixtures.counterparts import TORCH_ACTIVATIONS
from fixtures.steps import engine_of
from torch.utils.flop_counter import FlopCounterMode

from mlp_lightning.commands.explain.command import explain, find_minibatch, walk
from mlp_lightning.data import Batches
from mlp_lightning.data.batches import Batch
from mlp_lightning.data.dataset import Dataset
from mlp_lightning.data.module import DataModule
from mlp_lightning.errors import UserError
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.process.quiet import quiet_lightning

TOLERANCE = 1e-12
SIZES = (6, 7, 5, 3)
SAMPLES = 8

LOSSES = {
    "sum": {"reduction": "sum"},
    "mean": {"reduction": "mean"},
    "smoothed mean": {"label_smoothing": 0.1},
    "weighted mean": {"class_weights": [0.5, 2.0, 1.5]},
    "smoothed weighted sum": {"label_smoothing": 0.3, "class_weights": [0.5, 2.0, 1.5], "reduction": "sum"},
    "smoothed weighted mean": {"label_smoothing": 0.3, "class_weights": [0.5, 2.0, 1.5]},
    "mse mean": {"loss": "mse"},
    "mse sum": {"loss": "mse", "reduction": "sum"},
}


def make_module(sizes=SIZES, **options) -> MLPModule:
    module = MLPModule(hidden=list(sizes[1:-1]), **{"init": "he_notebook", **options})
    module._build(sizes)
    module.network.double()
    return module


def make_batch(sizes=SIZES, samples=SAMPLES):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, sizes[0], generator=generator, dtype=torch.float64)
    return x, torch.randint(sizes[-1], (samples,), generator=generator)


def digits(text: str) -> str:
    return text.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789"))


def by_name(steps, *phases):
    return {digits(step.name): step for step in steps if step.phase in phases}


def autograd(module, x, y):
    """Every intermediate and its gradient, by torch.nn.functional and autograd."""
    options, found = module.hparams, {"X": x}
    layers = [(layer.weight.clone(), layer.bias.clone()) for layer in module.network.layers]
    a = x
    for k, (weight, bias) in enumerate(layers, start=1):
        weight.requires_grad_()
        bias.requires_grad_()
        z = F.linear(a, weight, bias)
        z.retain_grad()
        if k < len(layers):
            a = TORCH_ACTIVATIONS[options["activation"]].module()(z)
            a.retain_grad()
            found |= {f"Z{k}": z, f"A{k}": a}
    found["logits"] = z
    if options["loss"] == "mse":
        onehot = F.one_hot(y, z.shape[1]).double()
        found |= {"L": F.mse_loss(z, onehot, reduction=options["reduction"]), "E": z - onehot}
    else:
        weights = options["class_weights"]
        found["L"] = F.cross_entropy(
            z,
            y,
            weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
            label_smoothing=options["label_smoothing"],
            reduction=options["reduction"],
        )
        found["P"] = F.softmax(z, 1)
    found["L"].backward()
    gradients = {f"d{name}": value.grad for name, value in found.items() if name[0] in "ZAl"}
    for k, (weight, bias) in enumerate(layers, start=1):
        gradients |= {f"dW{k}": weight.grad, f"db{k}": bias.grad}
    return found | gradients


def check_against_autograd(module):
    x, y = make_batch(module.network.sizes)
    steps = by_name(walk(module, x, y, 2), "forward", "loss", "backward")
    expected = autograd(module, x, y)
    assert steps.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            steps[name].value, value.detach(), rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_every_value_is_autograds_for_each_activation(activation):
    check_against_autograd(make_module(activation=activation))


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_every_value_is_autograds_for_each_loss(options):
    check_against_autograd(make_module(activation="tanh", **options))


@pytest.mark.parametrize("sizes", [(4, 3), (4, 2, 3), (2, *[3] * 11, 2)], ids=["no hidden", "one hidden", "twelve"])
def test_every_value_is_autograds_for_each_depth(sizes):
    check_against_autograd(make_module(sizes))


def test_formulas_stand_in_the_order_of_the_computation():
    steps = walk(make_module(reduction="mean", optimizer="sgd"), *make_batch(), 2)
    assert [step.formula for step in steps if step.phase in ("forward", "loss", "backward")] == [
        "X = the samples of the minibatch, one a row",
        "Z₁ = X W₁ᵀ + b₁",
        "A₁ = relu(Z₁)",
        "Z₂ = A₁ W₂ᵀ + b₂",
        "A₂ = relu(Z₂)",
        "logits = Z₃ = A₂ W₃ᵀ + b₃",
        "P = softmax(logits)",
        "L = −1/B · Σᵢ log P[i, yᵢ]",
        "dlogits = dZ₃ = (softmax(logits) − onehot(y)) · 1/B",
        "dW₃ = dZ₃ᵀ A₂",
        "db₃ = Σᵢ dZ₃",
        "dA₂ = dZ₃ W₃",
        "dZ₂ = dA₂ · relu′(Z₂)",
        "dW₂ = dZ₂ᵀ A₁",
        "db₂ = Σᵢ dZ₂",
        "dA₁ = dZ₂ W₂",
        "dZ₁ = dA₁ · relu′(Z₁)",
        "dW₁ = dZ₁ᵀ X",
        "db₁ = Σᵢ dZ₁",
    ]
    assert {step.phase for step in steps} == {"forward", "loss", "backward", "update", "afterwards"}


LOSS_FORMULAS = {
    "sum": ("L = −Σᵢ log P[i, yᵢ]", "dlogits = dZ₃ = softmax(logits) − onehot(y)", "a sum: nothing divides it"),
    "mean": (
        "L = −1/B · Σᵢ log P[i, yᵢ]",
        "dlogits = dZ₃ = (softmax(logits) − onehot(y)) · 1/B",
        "B = 8, its reciprocal is 0.125",
    ),
    "smoothed mean": (
        "L = −1/B · Σᵢⱼ Q[i, j] log P[i, j],  Q = (1 − 0.1) · onehot(y) + 0.1/K",
        "dlogits = dZ₃ = (softmax(logits) − Q) · 1/B",
        "B = 8, its reciprocal is 0.125",
    ),
    "weighted mean": (
        "L = −1/Σᵢ w[yᵢ] · Σᵢⱼ w[j] Q[i, j] log P[i, j],  Q = onehot(y)",
        "dlogits = dZ₃ = ((Σⱼ w[j] Q[·, j]) · softmax(logits) − w · Q) · 1/Σᵢ w[yᵢ]",
        "Σᵢ w[yᵢ] = 10, its reciprocal is 0.1",
    ),
    "mse mean": ("L = 1/(B·K) · Σ E²", "dlogits = dZ₃ = 2/(B·K) · E", "B·K = 24, its reciprocal is 0.04167"),
    "mse sum": ("L = Σ E²", "dlogits = dZ₃ = 2 · E", "a sum: nothing divides it"),
}


@pytest.mark.parametrize("name", LOSS_FORMULAS)
def test_the_loss_is_written_as_it_is_configured(name):
    x, _ = make_batch()
    steps = by_name(walk(make_module(**LOSSES[name]), x, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])), "loss", "backward")
    assert (steps["L"].formula, steps["dlogits"].formula, steps["dlogits"].numbers) == LOSS_FORMULAS[name]


MIXED_FORMULAS = {
    "mean": (
        "L = −1/B · Σᵢⱼ Q[i, j] log P[i, j],  Q = Y",
        "dlogits = dZ₃ = (softmax(logits) − Q) · 1/B",
        "the sample is of class 1 by 0.25 and 2 by 0.75, the network says",
    ),
    "weighted mean": (
        "L = −1/Σᵢⱼ w[j] Y[i, j] · Σᵢⱼ w[j] Q[i, j] log P[i, j],  Q = Y",
        "dlogits = dZ₃ = ((Σⱼ w[j] Q[·, j]) · softmax(logits) − w · Q) · 1/Σᵢⱼ w[j] Y[i, j]",
        "the sample is of class 1 by 0.25 and 2 by 0.75, the network says",
    ),
    "mse mean": ("L = 1/(B·K) · Σ E²", "dlogits = dZ₃ = 2/(B·K) · E", "by 0.25"),
}


@pytest.mark.parametrize("name", MIXED_FORMULAS)
def test_a_mixed_loss_is_autograds_and_written_as_it_is(name):
    x, _ = make_batch()
    y = torch.zeros(8, 3, dtype=torch.float64)
    y[:, 1:] = torch.tensor([0.25, 0.75])
    module = make_module(**LOSSES[name])
    steps = by_name(walk(module, x, y), "loss", "backward")
    first = steps["E"] if "mse" in name else steps["P"]
    formula, gradient, numbers = MIXED_FORMULAS[name]
    assert (steps["L"].formula, steps["dlogits"].formula) == (formula, gradient)
    assert numbers in first.numbers
    logits = module.network(x)[0].clone().requires_grad_()
    weights = torch.tensor(LOSSES[name].get("class_weights") or [1.0] * 3, dtype=torch.float64)
    if "mse" in name:
        loss = F.mse_loss(logits, y)
    else:
        loss = F.cross_entropy(logits, y, weight=weights, reduction="sum") / (y @ weights).sum()
    torch.testing.assert_close(steps["L"].value, loss.detach())
    torch.testing.assert_close(steps["dlogits"].value, torch.autograd.grad(loss, logits)[0])
    assert first.marked == 2


def test_shapes_are_filled_in():
    steps = by_name(walk(make_module(), *make_batch()), "forward", "backward")
    assert steps["Z1"].shapes == "(8, 6) × (6, 7) + (7,) → (8, 7)"
    assert steps["dW2"].shapes == "(5, 8) × (8, 7) → (5, 7)"
    assert steps["dA1"].shapes == "(8, 5) × (5, 7) → (8, 7)"
    for step in steps.values():
        assert step.shapes.endswith(str(tuple(step.value.shape)))


@pytest.mark.parametrize("sizes", [(4, 3), SIZES, (9, 16, 2, 5)], ids=str)
def test_multiply_adds_are_half_of_torchs_count_of_operations(sizes):
    module, (x, y) = make_module(sizes), make_batch(sizes)
    steps = walk(module, x, y)
    with FlopCounterMode(display=False) as forward:
        module.network(x)
    with FlopCounterMode(display=False) as both:
        autograd(module, x, y)

    def count(phase):
        return sum(step.multiply_adds for step in steps if step.phase == phase)

    assert 2 * count("forward") == forward.get_total_flops()
    assert 2 * (count("forward") + count("backward")) == both.get_total_flops()
    assert count("loss") == count("update") == count("afterwards") == 0


ADVERSARY = {
    "plain": {},
    "sum, three iterations": {"reduction": "sum", "vat_iterations": 3, "activation": "tanh"},
    "dropout, batch norm": {"norm": "batch", "dropout": 0.3, "input_dropout": 0.2},
}


@pytest.mark.parametrize("options", ADVERSARY.values(), ids=ADVERSARY)
def test_an_adversarys_numbers_are_those_of_the_training_step(options):
    x, y = make_batch()
    module = make_module(vat=0.7, vat_eps=0.9, clip_norm=1e9, **options)
    steps = by_name(walk(module, x, y, 2, step=3), "adversary", "update")

    reduction, seed = module.hparams["reduction"], module.hparams["seed"]
    adversary = module.make_adversary()
    training = engine_of(
        module.network,
        module.loss,
        module.make_optimizer(module.network),
        reduction=reduction,
        dropout=module.make_dropout(),
        adversary=adversary,
        seed=seed,
    )
    training(Batch(x, y, x[:0], y[:0], len(x)), 0.0, step=3)
    for name, expected in (
        ("R", adversary.r),
        ("X_r", adversary.x_r),
        ("D", adversary.divergence),
        ("dθ", module.network.flat_grad),
        ("g", module.network.flat_grad),
    ):
        torch.testing.assert_close(steps[name].value, expected, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(steps["d"].value.norm(dim=1), torch.ones(len(x), dtype=torch.float64))
    torch.testing.assert_close(steps["R"].value.norm(dim=1), torch.full((len(x),), 0.9, dtype=torch.float64))


@pytest.mark.parametrize("iterations", [1, 2])
def test_an_adversarys_multiply_adds_are_those_of_its_passes(iterations):
    module, (x, y) = make_module(vat=1.0, vat_iterations=iterations), make_batch()
    with FlopCounterMode(display=False) as walked:
        engine_of(
            module.network,
            module.loss,
            module.make_optimizer(module.network),
            reduction="mean",
            adversary=module.make_adversary(),
        )(Batch(x, y, x[:0], y[:0], len(x)), 0.1)
    count = sum(step.multiply_adds for step in walk(make_module(vat=1.0, vat_iterations=iterations), x, y))
    assert 2 * count == walked.get_total_flops()


def test_bytes_count_operands_and_results_once():
    steps = by_name(walk(make_module(), *make_batch()), "forward", "backward")
    b, d, h = SAMPLES, *SIZES[:2]
    assert steps["Z1"].bytes == 8 * (b * d + d * h + h + b * h)
    assert steps["A1"].bytes == 8 * 2 * b * h
    assert steps["dW1"].bytes == 8 * (b * h + b * d + h * d)
    assert steps["dZ1"].bytes == 8 * 3 * b * h


def test_the_sample_is_shown_in_detail():
    x, y = make_batch()
    steps = by_name(walk(make_module(), x, y, 5, image_shape=(2, 3), class_names=("a", "b", "c")), "forward", "loss")
    assert torch.equal(steps["X"].detail, x[5].view(2, 3))
    assert torch.equal(steps["A2"].detail, steps["A2"].value[5])
    assert steps["P"].labels == ("a", "b", "c")
    assert steps["P"].marked == y[5]
    assert [value for _, value in steps["P"].entries()] == steps["P"].value[5].tolist()


def test_the_loss_afterwards_is_that_of_the_updated_network():
    module, (x, y) = make_module(optimizer="sgd", lr=0.01), make_batch()
    steps = walk(module, x, y)
    moved = make_module(optimizer="sgd", lr=0.01)
    for k, layer in enumerate(moved.network.layers, start=1):
        layer.weight.add_(by_name(steps, "update")[f"ΔW{k}"].value)
        layer.bias.add_(by_name(steps, "update")[f"Δb{k}"].value)
    expected = autograd(moved, x, y)
    steps_after = by_name(steps, "afterwards")
    torch.testing.assert_close(steps_after["L"].value, expected["L"].detach())
    torch.testing.assert_close(steps_after["P"].value, expected["P"].detach())
    assert steps_after["L"].value < by_name(steps, "loss")["L"].value


def test_the_module_keeps_its_weights():
    module = make_module(lr=1.0, clip_norm=0.1)
    before = module.network.flat.clone()
    first, second = (walk(module, *make_batch()) for _ in range(2))
    assert torch.equal(module.network.flat, before)
    assert module.network.flat.grad is None
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.value, other.value)
        assert one.numbers == other.numbers


@pytest.mark.parametrize("sample", [-1, SAMPLES])
def test_a_row_outside_the_minibatch_is_refused(sample):
    with pytest.raises(UserError, match=rf"--sample: got {sample}, must be from 0 to 7"):
        walk(make_module(), *make_batch(), sample)


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_find_minibatch_counts_in_the_order_of_the_epoch(shuffle):
    numbers = torch.arange(10)
    batches = Batches(numbers[:, None].float(), numbers, 4, shuffle=shuffle, seed=3)
    order = torch.cat([batch.y for batch in batches])
    for sample in range(10):
        index, batch, row = find_minibatch(batches, sample)
        assert (index, row) == divmod(sample, 4)
        assert batch.y[row] == order[sample]


def test_find_minibatch_passes_over_samples_that_validate():
    numbers = torch.arange(20)
    batches = Batches(numbers[:, None].float(), numbers, 10, per_batch=True)
    index, batch, row = find_minibatch(batches, 7)
    assert (index, row, int(batch.y[row])) == (1, 0, 10)


@pytest.mark.parametrize("sample", [-1, 14, 10**12])
def test_find_minibatch_names_the_allowed_range(sample):
    numbers = torch.arange(20)
    with pytest.raises(UserError, match=rf"--sample: got {sample}, must be from 0 to 13"):
        find_minibatch(Batches(numbers[:, None].float(), numbers, 10, per_batch=True), sample)


def make_data(**options) -> DataModule:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(40, 6, generator=generator)
    y = torch.randint(3, (40,), generator=generator)
    datamodule = DataModule(**{"batch_size": 8, "validation_size": 10, **options})
    datamodule._data = Dataset(x, y, x, y, (2, 3), ("zero", "one", "two"))
    return datamodule


def make_trainer(**options) -> pl.Trainer:
    quiet_lightning()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        **{"accelerator": "cpu", "devices": 1, "max_epochs": 3, "log_every_n_steps": 1, **quiet, **options}
    )


RECIPES = {
    "adam_norm": ({"optimizer": "adam_norm", "lr": 0.3}, {}),
    "muon, constrained": ({"optimizer": "muon", "lr": 0.01, "l1": 0.5, "max_norm": 1.0}, {}),
    "nadam, decay of weights": ({"optimizer": "nadam", "weight_decay": 0.1, "decay_biases": False}, {}),
    "plain sgd, constrained": ({"optimizer": "sgd", "l1": 0.5, "max_norm": 1.0}, {}),
    "cosine after a rise": ({"schedule": "cosine", "warmup_epochs": 0.5, "clip_norm": 0.1}, {}),
    "one_cycle, limited": (
        {"schedule": "one_cycle", "optimizer": "sgd", "momentum": 0.5},
        {"limit_train_batches": 2},
    ),
    "plain sgd": ({"optimizer": "sgd"}, {}),
    "double": ({"optimizer": "rmsprop"}, {"precision": "64-true"}),
}


@pytest.mark.parametrize(("options", "trainer_options"), RECIPES.values(), ids=RECIPES)
def test_the_update_is_the_first_step_of_a_training(options, trainer_options, monkeypatch):
    options = {"hidden": [7, 5], "seed": 4, **options}
    recorded = []
    monkeypatch.setattr(
        "mlp_lightning.commands.explain.command.walk", lambda *a, **k: recorded.extend(walk(*a, **k)) or recorded
    )
    module = MLPModule(**options)
    explain(make_trainer(**trainer_options), module, make_data())
    before = module.network.flat.clone()

    class StopAfterOneStep(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = True
            self.after = trainer.lightning_module.network.flat.clone()
            raise KeyboardInterrupt

    trained, stop = MLPModule(**options), StopAfterOneStep()
    trainer = make_trainer(callbacks=[stop], **trainer_options)
    with pytest.raises(SystemExit):
        trainer.fit(trained, make_data())
    change = next(step.value for step in recorded if step.name == "Δθ")
    assert change.dtype == stop.after.dtype
    for weights in (step.value for step in recorded if step.name == "W"):
        # What follows the rule.
        change[: len(weights)] = weights - before[: len(weights)]
    # In float32 the training's sums are rounded in another order, or within a product, where there is a compiler.
    is_fine = before.dtype == torch.float64
    atol = 0 if is_fine else torch.finfo(before.dtype).eps * float(before.abs().max())
    torch.testing.assert_close(change, stop.after - before, rtol=0 if is_fine else 1e-5, atol=atol)


def test_the_command_prints_and_writes_a_page(tmp_path, capsys):
    page = tmp_path / "page.html"
    explain(make_trainer(), MLPModule(hidden=[4]), make_data(), sample=9, html=str(page))
    printed = capsys.readouterr().out
    assert re.search(r"minibatch +1 of 0 … 3", printed)
    assert re.search(r"sample +9: row 1 of its minibatch, class (zero|one|two)", printed)
    assert "parameters  43: 36 weights, 7 biases" in printed
    assert f"page: {page}" in printed
    assert "relu′(Z₁)" in page.read_text(encoding="utf-8")


def test_the_command_takes_weights_from_a_checkpoint(tmp_path, capsys):
    source = MLPModule(hidden=[4], seed=9)
    source._build((6, 4, 3))
    checkpoint = {"state_dict": source.state_dict(), "hyper_parameters": {}}
    source.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    module = MLPModule(hidden=[4])
    explain(make_trainer(), module, make_data(), ckpt_path=str(tmp_path / "x.ckpt"))
    assert torch.equal(module.network.flat, source.network.flat)
    assert "x.ckpt" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--ckpt_path: .*x\.ckpt does not fit"):
        explain(make_trainer(), MLPModule(hidden=[5]), make_data(), ckpt_path=str(tmp_path / "x.ckpt"))


@pytest.mark.parametrize("options", [{"sample": 30}, {"sample": -1}], ids=str)
def test_the_command_refuses_a_sample_that_is_not_there(options):
    with pytest.raises(UserError, match=r"--sample: got -?\d+, must be from 0 to 29"):
        explain(make_trainer(), MLPModule(), make_data(), **options)


def test_the_command_refuses_several_processes():
    with pytest.raises(UserError, match=r"trainer.devices: got 2 in all, must be 1"):
        explain(make_trainer(devices=2), MLPModule(), make_data())
