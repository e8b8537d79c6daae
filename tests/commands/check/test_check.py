"""Every formula broken on purpose must be named by ``check``; unbroken, it must accept every configuration."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from fixtures.counterparts import TORCH_RULES

from mlp_lightning.commands.check.command import check
from mlp_lightning.data.batches import Batch
from mlp_lightning.engines import adversary as adversary_file
from mlp_lightning.engines import constraints as constraints_file
from mlp_lightning.engines import engine as engine_file
from mlp_lightning.engines import transforms as transforms_file
from mlp_lightning.engines.adversary import VirtualAdversary
from mlp_lightning.engines.choice import ENGINES
from mlp_lightning.engines.engine import Engine
from mlp_lightning.engines.native.chain import NativeChain
from mlp_lightning.engines.native.linear import NativeLinear, native_linear
from mlp_lightning.engines.native.loss import NativeCrossEntropy
from mlp_lightning.engines.torch import in_place as in_place_file
from mlp_lightning.engines.torch.in_place import IN_PLACE
from mlp_lightning.engines.torch.passes import TorchPasses
from mlp_lightning.errors import UserError
from mlp_lightning.nn import ACTIVATIONS, MeanSquaredError, SoftmaxCrossEntropy
from mlp_lightning.nn import mlp as mlp_file
from mlp_lightning.nn.draws import Draws
from mlp_lightning.optim import (
    OPTIMIZERS,
    SGD,
    Adam,
    AdamNorm,
    AdamW,
    Muon,
    NAdam,
    RMSprop,
    UpdateRule,
    clip_norm_,
    clip_value_,
    max_norm_,
    muon,
    nadam,
    soft_threshold_,
)
from mlp_lightning.training import options as recipe
from mlp_lightning.training import recipes
from mlp_lightning.training.module import MLPModule
from mlp_lightning.training.options import make_schedule

pytestmark = pytest.mark.filterwarnings(
    # Lightning's own, which the command line silences likewise.
    r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"
)

# Square hidden weights, so that a transposed operand has a legal shape.
SIZES = (6, 6, 6, 4)
LAST, FIRST = "layers.2", "layers.0"
EVERY_GRADIENT = {f"layers.{k}.{kind}" for k in range(3) for kind in ("weight", "bias")} | {"dx"}
BELOW_THE_LAST = {name for name in EVERY_GRADIENT if not name.startswith(LAST)}


def minibatches(sizes=SIZES, count=3, samples=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        x = torch.rand(samples, sizes[0], generator=generator)
        y = torch.randint(sizes[-1], (samples,), generator=generator)
        found.append(Batch(x, y, x[:2], y[:2], samples))
    return found


def build(sizes=SIZES, **options):
    module = MLPModule(**{"hidden": list(sizes[1:-1]), "init": "he_notebook", "lr": 0.01, **options})
    module._build(sizes)
    return module


def run(module, capsys, batches=None, *, precision="64-true", steps_per_epoch=3, total_steps=30, engine="auto"):
    """Whether all passed, the failed rows by part, and the whole text."""
    passed = check(
        module,
        batches or minibatches(module.network.sizes),
        precision=precision,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        engine=engine,
    )
    text = capsys.readouterr().out
    closing = text.splitlines()[-1]
    failed = {}
    if not passed:
        count, listed = re.fullmatch(r"(\d+) of \d+ checks FAILED: (.*)", closing).groups()
        rows = re.findall(r"(?:^|\), )([^()]+) \(([^()]+)(?=\), |\)$)", listed)
        assert len(rows) == int(count) == len(re.findall("WRONG$", text, re.MULTILINE))
        for name, part in rows:
            failed.setdefault(part, set()).add(name)
    else:
        assert re.fullmatch(r"all \d+ checks passed", closing)
        assert "WRONG" not in text
    return passed, failed, text


def gradient_rows(names, steps=20):
    return {f"gradient of {name}, steps 1–{steps}" for name in names if name != "dx"}


def movements(failed):
    return {name.split(",")[0] for name in failed.get("updates, float64", ()) if re.match(r"layers\.", name)}


# --- unbroken --------------------------------------------------------------------------------------------------------

GOOD = [
    *({"activation": name} for name in ACTIVATIONS),
    *({"activation": "tanh", "init": init} for init in ("zeros", "orthogonal", "lecun_normal")),
    {"init": "zeros"},
    {"reduction": "sum"},
    {"label_smoothing": 0.1},
    {"class_weights": [0.1, 2.0, 1.0, 0.7]},
    {"class_weights": [0.1, 2.0, 1.0, 0.7], "label_smoothing": 0.3, "reduction": "sum"},
    {"loss": "mse"},
    {"loss": "mse", "reduction": "sum", "lr": 0.001},
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"optimizer": "adam", "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1},
    {"optimizer": "adam", "amsgrad": True, "beta2": 0.5},
    {"optimizer": "adam", "beta1": 0.0, "reduction": "sum"},
    {"optimizer": "sgd", "weight_decay": 0.1, "decay_biases": False},
    {"optimizer": "sgd", "weight_decay": 0.1, "decay_biases": False, "momentum": 0.9, "nesterov": True},
    {"optimizer": "adam", "weight_decay": 0.1, "decay_biases": False},
    {"optimizer": "rmsprop", "weight_decay": 0.1, "decay_biases": False},
    {"optimizer": "adamw", "weight_decay": 0.5, "decay_biases": False},
    {"optimizer": "adamw", "weight_decay": 0.5, "amsgrad": True},
    {"optimizer": "nadam", "weight_decay": 0.1, "momentum_decay": 0.1, "beta1": 0.8, "eps": 1e-3},
    {"optimizer": "nadam", "weight_decay": 0.1, "decoupled_weight_decay": True, "decay_biases": False},
    {"optimizer": "muon"},
    {"optimizer": "muon", "nesterov": False, "momentum": 0.8, "ns_steps": 3, "decay_biases": False},
    {"optimizer": "muon", "weight_decay": 0.5, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "clip_norm": 0.1},
    {"optimizer": "muon", "init": "zeros", "activation": "tanh"},
    {"optimizer": "muon", "init": "zeros", "ns_steps": 12},
    {"optimizer": "muon", "hidden": [64, 1, 200], "norm": "batch", "activation": "identity", "init": "orthogonal"},
    {"optimizer": "muon", "hidden": [], "norm": "batch", "init": "zeros", "l1": 0.002, "max_norm": 0.2},
    {"l1": 1.0},
    {"optimizer": "sgd", "l1": 2.0, "schedule": "cosine"},
    {"optimizer": "sgd", "max_norm": 0.5},
    {"max_norm": 1.0, "l1": 0.5, "init": "glorot_uniform"},
    {"optimizer": "rmsprop", "alpha": 0.9, "eps": 1e-4, "momentum": 0.5, "centered": True, "weight_decay": 0.1},
    *(row.options for row in TORCH_RULES.values()),
    {"optimizer": "adam_norm"},
    {"optimizer": "adam_norm", "beta1": 0.3, "beta2": 0.99, "eps": 0.1, "reduction": "sum"},
    {"schedule": "step", "step_epochs": 2, "gamma": 0.5},
    {"schedule": "step", "step_epochs": 1, "warmup_epochs": 2.0},
    {"schedule": "cosine", "final_factor": 0.1},
    {"schedule": "cosine", "warmup_epochs": 1.5},
    {"schedule": "one_cycle", "pct_start": 0.4},
    {"warmup_epochs": 3.0},
    {"averaging": "ema", "ema_decay": 0.9},
    {"averaging": "swa", "swa_start": 0.0},
    {"averaging": "swa", "swa_start": 0.6, "optimizer": "sgd"},
    {"vat": 0.7},
    {"vat": 0.7, "activation": "tanh", "vat_eps": 0.5, "vat_xi": 0.1, "vat_iterations": 3, "clip_norm": 0.3},
    {"vat": 2.0, "reduction": "sum", "class_weights": [0.1, 2.0, 1.0, 0.7], "label_smoothing": 0.3, "lr": 0.001},
    {"vat": 0.7, "norm": "batch", "dropout": 0.3, "input_dropout": 0.1},
    {"vat": 0.7, "norm": "layer", "optimizer": "sgd"},
    {"vat": 0.7, "init": "zeros"},
    {"clip_norm": 0.1},
    {"clip_value": 0.01},
    {"clip_norm": 0.5, "clip_value": 0.05, "optimizer": "sgd"},
    {"clip_norm": 1e6},
    {"lr": 0.0},
    {"lr": 1e-7},
    {"hidden": []},
]


@pytest.mark.parametrize("options", GOOD, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()))
def test_right_formulas_pass(options, capsys):
    sizes = (SIZES[0], *options["hidden"], SIZES[-1]) if "hidden" in options else SIZES
    passed, failed, _ = run(build(sizes, **options), capsys, precision="32-true")
    assert passed, failed


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[3].glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_every_config_passes(path, capsys):
    options = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
    # The recipe is what counts, and a narrow network shows it in a hundredth of the time.
    options["hidden"] = [width // 16 for width in options["hidden"]]
    sizes = (784, *options["hidden"], 10)
    batches = minibatches(sizes, count=2, samples=8)
    passed, failed, text = run(build(sizes, **options), capsys, batches, steps_per_epoch=1, total_steps=8)
    assert passed, failed
    assert f"{options['hidden'][0]} × 784" in text


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_chance_raises_no_alarm(optimizer, seed, capsys):
    module = build((5, 3, 2), hidden=[3], init="he_normal", seed=seed, optimizer=optimizer, clip_norm=0.3)
    passed, failed, _ = run(module, capsys, minibatches((5, 2), samples=3, seed=seed), precision="16-mixed")
    assert passed, failed


def test_units_on_the_kink_are_judged_as_torch_does(capsys):
    batches = [batch._replace(x=torch.zeros_like(batch.x)) for batch in minibatches()]
    for activation in ("relu", "leaky_relu", "elu"):
        passed, failed, _ = run(build(init="he_normal", activation=activation), capsys, batches)
        assert passed, failed


@pytest.mark.parametrize("bias", [-20.0, 9.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_units_far_from_zero_lose_digits_that_no_formula_keeps(activation, bias, capsys):
    module = build(activation=activation)
    module.network.layers[0].bias.fill_(bias)
    passed, failed, _ = run(module, capsys, precision="32-true", total_steps=2)
    assert passed, failed


def test_a_balanced_minibatch_whose_gradient_cancels(capsys):
    x, y = torch.ones(12, 6), torch.arange(12) % 4
    batch = Batch(x, y, x[:0], y[:0], 12)
    passed, failed, _ = run(build(init="zeros", activation="sigmoid"), capsys, [batch], precision="32-true")
    assert passed, failed


def mixed_minibatches():
    return [batch._replace(partner_y=batch.y.roll(1), share=0.3) for batch in minibatches()]


MIXED = [
    {},
    {"label_smoothing": 0.3, "class_weights": [0.1, 2.0, 1.0, 0.7]},
    {"class_weights": [0.1, 2.0, 1.0, 0.7], "reduction": "sum"},
    {"loss": "mse"},
]


@pytest.mark.parametrize("options", MIXED, ids=str)
def test_mixed_targets_pass(options, capsys):
    passed, failed, _ = run(build(**options), capsys, mixed_minibatches(), precision="32-true")
    assert passed, failed


@pytest.mark.parametrize("options", MIXED, ids=str)
def test_wrong_mixed_targets(options, monkeypatch, capsys):
    right = Batch.targets
    monkeypatch.setattr(Batch, "targets", lambda self, *rest: right(self._replace(share=1 - self.share), *rest))
    passed, failed, _ = run(build(**options), capsys, mixed_minibatches())
    assert not passed
    assert failed.keys() == {"updates, float64"}
    # Both targets are the same classes in another order, so that the last bias cannot always tell them apart.
    assert failed["updates, float64"] >= gradient_rows(EVERY_GRADIENT - {f"{LAST}.bias"})


def test_wrong_loss_of_mixed_targets(monkeypatch, capsys):
    weighted = SoftmaxCrossEntropy._weighted_probabilities
    monkeypatch.setattr(
        SoftmaxCrossEntropy, "_weighted_probabilities", lambda self, like, q: weighted(self, like, q) * 0.9
    )
    passed, failed, _ = run(build(), capsys, mixed_minibatches())
    assert not passed
    assert failed["gradients, float64"] == EVERY_GRADIENT | {"loss", "dlogits"}
    assert failed["updates, float64"] == gradient_rows(EVERY_GRADIENT)


@pytest.mark.parametrize(("precision", "parts"), [("64-true", 3), ("32-true", 5), ("bf16-mixed", 6)])
def test_parts(precision, parts, capsys):
    _, _, text = run(build(), capsys, precision=precision)
    groups = text.count("one call of the engine")
    assert text.count("verdict") == parts + groups
    assert ("float32" in text) == (parts > 3)
    assert ("in bf16-mixed, made by the engine" in text) == (precision == "bf16-mixed")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_by_its_name(engine, capsys):
    module = build(activation="relu")
    if engine == "triton" and not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"^trainer\.engine: got triton, which refuses: no CUDA device; auto"):
            run(module, capsys, precision="32-true", engine=engine)
        return
    passed, failed, text = run(module, capsys, precision="32-true", engine=engine)
    assert passed, failed
    assert f"in float32, made by the engine {engine}" in text


def test_all_engines(capsys):
    passed, failed, text = run(build(activation="relu"), capsys, precision="32-true", engine="all")
    assert passed, failed
    for engine in ENGINES:
        assert f"in float32, made by the engine {engine}" in text or f"\nengine {engine} refuses: " in text
    assert "made by the engine reference" in text


@pytest.mark.parametrize("total_steps", [1, 2, 7, float("inf")])
def test_length_of_the_training(total_steps, capsys):
    passed, failed, text = run(build(), capsys, total_steps=total_steps)
    assert passed, failed
    steps = int(min(20, total_steps))
    assert f"\n{steps} steps of adam" in text
    assert (f", steps 2–{steps}" in text) == (steps > 1)


def test_module_is_left_alone(capsys):
    module = build()
    before = module.network.flat.clone()
    run(module, capsys, precision="32-true")
    assert torch.equal(module.network.flat, before)
    assert module.network.flat.dtype == torch.float32
    assert module._trainer is None


def test_trained_weights_are_the_ones_checked(capsys):
    module, other = build(), build()
    other.network.flat.mul_(2)
    _, _, text = run(module, capsys)
    assert run(build(), capsys)[2] == text
    assert run(other, capsys)[2] != text


# --- broken on purpose -----------------------------------------------------------------------------------------------


def spoiled(activation, spoil):
    """An activation with a wrong backward pass; ``da`` is copied, for those that overwrite it."""
    return activation._replace(backward=lambda da, z, a: spoil(activation.backward(da.clone(), z, a), da))


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        pytest.param(lambda dz, da: dz * 0.99, BELOW_THE_LAST, id="factor"),
        # Two of them undo one another, in all that lies below the second.
        pytest.param(lambda dz, da: -dz, {"layers.1.weight", "layers.1.bias"}, id="sign"),
        pytest.param(lambda dz, da: dz + 1e-4, BELOW_THE_LAST, id="constant"),
        pytest.param(lambda dz, da: da * 1.001, BELOW_THE_LAST, id="no-derivative"),
    ],
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_wrong_activation(activation, spoil, wrong, monkeypatch, capsys):
    module = build(activation=activation)
    for table in (ACTIVATIONS, IN_PLACE):
        monkeypatch.setitem(table, activation, spoiled(table[activation], spoil))
    passed, failed, _ = run(module, capsys)
    assert not passed
    assert failed["gradients, float64"] == wrong
    assert failed["differences, float64"] == wrong
    assert failed["updates, float64"] == gradient_rows(wrong)


@pytest.mark.parametrize("activation", IN_PLACE)
def test_wrong_activation_of_the_training_alone(activation, monkeypatch, capsys):
    monkeypatch.setitem(IN_PLACE, activation, spoiled(IN_PLACE[activation], lambda dz, da: dz * 0.99))
    passed, failed, _ = run(build(activation=activation), capsys)
    assert not passed
    assert failed == {"updates, float64": gradient_rows(BELOW_THE_LAST)}


def test_activation_whose_derivative_is_nan(monkeypatch, capsys):
    for table in (ACTIVATIONS, IN_PLACE):
        monkeypatch.setitem(table, "tanh", table["tanh"]._replace(backward=lambda da, z, a: da * float("nan")))
    passed, failed, _ = run(build(activation="tanh"), capsys)
    assert not passed
    assert failed["gradients, float64"] == BELOW_THE_LAST
    assert failed["differences, float64"] == BELOW_THE_LAST
    assert gradient_rows(BELOW_THE_LAST) <= failed["updates, float64"]


def transposed(dz, x, dweight, dbias, *, add=False):
    product = dz.t() @ x
    dweight.copy_(product.t() if product.shape[0] == product.shape[1] else product)
    dbias.copy_(dz.sum(0))


def wrong_operand(dz, x, dweight, dbias, *, add=False):
    dweight.copy_(dz.t() @ x.clamp(min=0.3))
    dbias.copy_(dz.sum(0))


def forgotten_bias(dz, x, dweight, dbias, *, add=False):
    dweight.copy_(dz.t() @ x)


def mean_bias(dz, x, dweight, dbias, *, add=False):
    dweight.copy_(dz.t() @ x)
    dbias.copy_(dz.mean(0))


SQUARE_WEIGHTS = {"layers.0.weight", "layers.1.weight"}
WEIGHTS = {"layers.0.weight", "layers.1.weight", "layers.2.weight"}
BIASES = {"layers.0.bias", "layers.1.bias", "layers.2.bias"}


@pytest.mark.parametrize(
    ("name", "broken", "wrong"),
    [
        pytest.param("linear_backward", transposed, SQUARE_WEIGHTS, id="dweight-transposed"),
        pytest.param("linear_backward", wrong_operand, WEIGHTS, id="dweight-wrong-operand"),
        pytest.param("linear_backward", forgotten_bias, BIASES, id="dbias-forgotten"),
        pytest.param("linear_backward", mean_bias, BIASES, id="dbias-mean"),
        pytest.param(
            "linear_backward_input",
            lambda dz, w, out=None: dz @ (w.t() if w.shape[0] == w.shape[1] else w),
            {"layers.0.weight", "layers.0.bias", "dx"},
            id="dx-transposed",
        ),
        pytest.param("linear_backward_input", lambda dz, w, out=None: dz @ w * 1.01, BELOW_THE_LAST, id="dx-factor"),
    ],
)
def test_wrong_linear_layer(name, broken, wrong, monkeypatch, capsys):
    for file in (mlp_file, in_place_file):
        monkeypatch.setattr(file, name, broken)
    passed, failed, _ = run(build(activation="tanh"), capsys)
    assert not passed
    assert failed["gradients, float64"] == wrong
    assert failed["differences, float64"] == wrong
    assert failed["updates, float64"] == gradient_rows(wrong)


def without(**changes):
    """A loss's backward pass as if some of its options were not set."""

    def wrap(backward):
        def broken(self, cache, dloss=1.0):
            kept = {name: getattr(self, name) for name in changes}
            self.__dict__.update(changes)
            try:
                return backward(self, cache, dloss)
            finally:
                self.__dict__.update(kept)

        return broken

    return wrap


def unscaled(backward):
    return lambda self, cache, dloss=1.0: backward(self, (*cache[:2], 1.0), 1.0)


def halved(backward):
    return lambda self, cache, dloss=1.0: backward(self, cache, dloss) * 0.5


@pytest.mark.parametrize(
    ("loss", "options", "break_it"),
    [
        pytest.param(SoftmaxCrossEntropy, {}, unscaled, id="cross_entropy-without-1/B"),
        pytest.param(
            SoftmaxCrossEntropy,
            {"label_smoothing": 0.1},
            without(label_smoothing=0.0),
            id="label_smoothing-dropped",
        ),
        pytest.param(
            SoftmaxCrossEntropy,
            {"class_weights": [1.0, 2.0, 3.0, 4.0]},
            without(class_weights=None),
            id="class_weights-dropped",
        ),
        pytest.param(MeanSquaredError, {"loss": "mse"}, halved, id="mse-without-2"),
        pytest.param(MeanSquaredError, {"loss": "mse"}, unscaled, id="mse-without-1/BK"),
    ],
)
def test_wrong_loss_gradient(loss, options, break_it, monkeypatch, capsys):
    monkeypatch.setattr(loss, "backward", break_it(loss.backward))
    passed, failed, _ = run(build(**options), capsys)
    assert not passed
    assert failed["gradients, float64"] == EVERY_GRADIENT | {"dlogits"}
    assert failed["differences, float64"] == EVERY_GRADIENT
    assert failed["updates, float64"] == gradient_rows(EVERY_GRADIENT)


@pytest.mark.parametrize(
    ("loss", "options"), [(SoftmaxCrossEntropy, {}), (MeanSquaredError, {"loss": "mse"})], ids=["cross_entropy", "mse"]
)
def test_wrong_loss(loss, options, monkeypatch, capsys):
    forward = loss.forward

    def broken(self, logits, targets):
        value, cache = forward(self, logits, targets)
        return value * 0.5, cache

    monkeypatch.setattr(loss, "forward", broken)
    passed, failed, _ = run(build(**options), capsys)
    assert not passed
    assert failed == {"gradients, float64": {"loss"}, "differences, float64": EVERY_GRADIENT}


def test_wrong_scale_in_the_training_step(monkeypatch, capsys):
    monkeypatch.setattr(Engine, "_dloss", lambda self, normalizer, logits: 1.0)
    passed, failed, _ = run(build(), capsys)
    assert not passed
    assert failed == {"updates, float64": gradient_rows(EVERY_GRADIENT)}


def test_wrong_in_float32_alone(monkeypatch, capsys):
    backward = ACTIVATIONS["tanh"].backward

    def broken(da, z, a):
        return backward(da, z, a) * (1.001 if z.dtype == torch.float32 else 1.0)

    for table in (ACTIVATIONS, IN_PLACE):
        monkeypatch.setitem(table, "tanh", ACTIVATIONS["tanh"]._replace(backward=broken))
    passed, failed, _ = run(build(activation="tanh"), capsys, precision="32-true")
    assert not passed
    assert failed == {
        "gradients, float32": BELOW_THE_LAST,
        "updates, float32": gradient_rows(BELOW_THE_LAST),
    }


# A rule with other options, or with another step count, stands for a rule with another formula.
def with_options(**changes):
    return lambda update: (
        lambda self, parameter, grad, state, group: update(self, parameter, grad, state, {**group, **changes})
    )


def without_bias_correction(update):
    def broken(self, parameter, grad, state, group):
        # So late a step that nothing is left to correct.
        state["step"] = state.get("step", 0) + 10**6
        update(self, parameter, grad, state, group)

    return broken


def eps_inside_the_root(update):
    return lambda self, parameter, grad, state, group: update(
        self, parameter, grad, state, {**group, "eps": group["eps"] ** 0.5}
    )


def coupled_decay(update):
    def broken(self, parameter, grad, state, group):
        update(self, parameter, grad + group["weight_decay"] * parameter, state, {**group, "weight_decay": 0.0})

    return broken


def counting_biases(update):
    return lambda self, parameter, grad, state, group: update(
        self, parameter, grad, state, {**group, "weight_numel": parameter.numel()}
    )


def forgetful(update):
    def broken(self, parameter, grad, state, group):
        state.clear()
        update(self, parameter, grad, state, group)

    return broken


MOMENTUM = {"momentum": 0.9, "dampening": 0.2}


@pytest.mark.parametrize(
    ("rule", "options", "break_it"),
    [
        pytest.param(SGD, {"momentum": 0.9, "weight_decay": 0.1}, with_options(weight_decay=0.0), id="sgd-no-decay"),
        pytest.param(
            SGD, {"clip_norm": 1.0, "weight_decay": 1e-4}, with_options(weight_decay=1.01e-4), id="sgd-small-decay"
        ),
        pytest.param(SGD, {"momentum": 0.9, "nesterov": True}, with_options(nesterov=False), id="sgd-nesterov"),
        pytest.param(Adam, {}, without_bias_correction, id="adam-no-bias-correction"),
        pytest.param(Adam, {}, eps_inside_the_root, id="adam-eps-inside"),
        pytest.param(AdamW, {}, coupled_decay, id="adamw-coupled"),
        pytest.param(NAdam, {}, without_bias_correction, id="nadam-no-bias-correction"),
        pytest.param(NAdam, {}, with_options(momentum_decay=0.0), id="nadam-momentum-decay"),
        pytest.param(NAdam, {"weight_decay": 0.1}, with_options(decoupled_weight_decay=True), id="nadam-decoupled"),
        pytest.param(RMSprop, {}, eps_inside_the_root, id="rmsprop-eps-inside"),
        pytest.param(RMSprop, {"centered": True}, with_options(centered=False), id="rmsprop-not-centered"),
        pytest.param(RMSprop, {}, with_options(alpha=0.999), id="rmsprop-alpha"),
        *(
            pytest.param(rule, {"weight_decay": 0.1}, with_options(weight_decay=0.0), id=f"{name}-no-decay")
            for name, rule in OPTIMIZERS.items()
            if name not in ("sgd", "adam_norm")
        ),
        pytest.param(AdamNorm, {}, counting_biases, id="adam_norm-biases"),
        pytest.param(AdamNorm, {"eps": 1e-2}, eps_inside_the_root, id="adam_norm-eps"),
        pytest.param(AdamNorm, {}, with_options(betas=(0.0, 0.5)), id="adam_norm-no-momentum"),
    ],
)
def test_wrong_rule(rule, options, break_it, monkeypatch, capsys):
    monkeypatch.setattr(rule, "update", break_it(rule.update))
    name = {"AdamNorm": "adam_norm"}.get(rule.__name__, rule.__name__.lower())
    passed, failed, _ = run(build(optimizer=name, **options), capsys)
    assert not passed
    assert set(failed) == {"updates, float64"}
    assert movements(failed) == EVERY_GRADIENT - {"dx"}
    assert not any("gradient" in row or "learning rate" in row for row in failed["updates, float64"])


@pytest.mark.parametrize(
    ("optimizer", "more"), [("sgd", {"momentum": 0.9}), ("adam", {}), ("adamw", {}), ("rmsprop", {})]
)
def test_biases_that_decay_though_they_should_not(optimizer, more, monkeypatch, capsys):
    monkeypatch.setattr(UpdateRule, "decaying", staticmethod(lambda tensor, group: tensor))
    module = build(optimizer=optimizer, weight_decay=0.1, decay_biases=False, **more)
    passed, failed, _ = run(module, capsys)
    assert not passed
    assert set(failed) == {"updates, float64"}
    assert movements(failed) == BIASES


@pytest.mark.parametrize(
    ("rule", "options", "break_it"),
    [
        pytest.param(SGD, MOMENTUM, with_options(momentum=0.8), id="sgd-momentum"),
        pytest.param(SGD, MOMENTUM, with_options(dampening=0.0), id="sgd-dampening"),
        pytest.param(Adam, {"amsgrad": True, "beta2": 0.3}, with_options(amsgrad=False), id="adam-not-amsgrad"),
        pytest.param(RMSprop, {"momentum": 0.9}, with_options(momentum=0.5), id="rmsprop-momentum"),
        *(
            pytest.param(rule, {}, forgetful, id=f"{name}-forgets")
            for name, rule in OPTIMIZERS.items()
            if name != "sgd"
        ),
    ],
)
def test_wrong_rule_that_shows_after_the_first_step(rule, options, break_it, monkeypatch, capsys):
    monkeypatch.setattr(rule, "update", break_it(rule.update))
    name = {"AdamNorm": "adam_norm"}.get(rule.__name__, rule.__name__.lower())
    passed, failed, _ = run(build(optimizer=name, **options), capsys)
    assert not passed
    assert failed == {"updates, float64": {f"{name}, steps 2–20" for name in EVERY_GRADIENT - {"dx"}}}


def test_nadam_without_the_next_momentum(monkeypatch, capsys):
    momentum_at = nadam.momentum_at
    monkeypatch.setattr(nadam, "momentum_at", lambda t, group: momentum_at(max(t - 1, 1), group))
    passed, failed, _ = run(build(optimizer="nadam"), capsys)
    assert not passed
    assert movements(failed) == EVERY_GRADIENT - {"dx"}


@pytest.mark.parametrize(
    ("break_it", "wrong", "first"),
    [
        pytest.param(with_options(ns_steps=4), WEIGHTS, True, id="steps"),
        pytest.param(with_options(weight_decay=0.0), EVERY_GRADIENT - {"dx"}, True, id="no-decay"),
        pytest.param(with_options(decay_biases=False), BIASES, True, id="no-decay-of-biases"),
        pytest.param(with_options(eps=1e-4), BIASES, True, id="eps"),
        # A gradient and a multiple of it have one direction: the momentum shows later.
        pytest.param(with_options(nesterov=False), WEIGHTS, False, id="no-nesterov"),
        pytest.param(with_options(momentum=0.9), WEIGHTS, False, id="momentum"),
    ],
)
def test_wrong_muon(break_it, wrong, first, monkeypatch, capsys):
    monkeypatch.setattr(Muon, "update", break_it(Muon.update))
    passed, failed, _ = run(build(optimizer="muon"), capsys)
    assert not passed
    assert set(failed) == {"updates, float64"}
    assert movements(failed) == wrong
    assert any("step 1" in row for row in failed["updates, float64"]) == first


@pytest.mark.parametrize(
    ("name", "value"), [("COEFFICIENTS", (3.4445, -4.7750, 2.0)), ("ADAM_RMS", 0.2001)], ids=["polynomial", "scale"]
)
def test_wrong_number_in_muon(name, value, monkeypatch, capsys):
    monkeypatch.setattr(muon, name, value)
    passed, failed, _ = run(build(optimizer="muon"), capsys)
    assert not passed
    assert failed == {"updates, float64": {f"{name}, {steps}" for name in WEIGHTS for steps in STEPS}}


STEPS = ("step 1", "steps 2–20")


def subgradient(weights, threshold, memory):
    weights.sub_(threshold * weights.sign())


def columns(weight, limit):
    max_norm_(weight.t(), limit)


@pytest.mark.parametrize(
    ("options", "name", "broken"),
    [
        pytest.param({"l1": 0.1}, "soft_threshold_", lambda w, t, m: soft_threshold_(w, t * 1.01, m), id="l1-strength"),
        pytest.param({"l1": 0.1}, "soft_threshold_", lambda w, t, m: None, id="l1-forgotten"),
        pytest.param({"l1": 20.0}, "soft_threshold_", subgradient, id="l1-steps-over-0"),
        pytest.param({"max_norm": 0.1}, "max_norm_", lambda w, c: max_norm_(w, c * 1.001), id="max_norm-limit"),
        pytest.param({"max_norm": 0.1}, "max_norm_", lambda w, c: None, id="max_norm-forgotten"),
        pytest.param({"max_norm": 0.1}, "max_norm_", columns, id="max_norm-columns"),
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_wrong_constraint(optimizer, options, name, broken, monkeypatch, capsys):
    monkeypatch.setattr(constraints_file, name, broken)
    passed, failed, _ = run(build(optimizer=optimizer, **options), capsys)
    assert not passed
    assert set(failed) == {"updates, float64"}
    assert movements(failed) == WEIGHTS


@pytest.mark.parametrize("warmup_epochs", [0.0, 2.0])
@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_schedule_off_by_one(schedule, warmup_epochs, monkeypatch, capsys):
    def broken(*args, **settings):
        found = make_schedule(*args, **settings)
        return lambda t: found(t + 1)

    monkeypatch.setattr(recipes, "make_schedule", broken)
    passed, failed, _ = run(build(schedule=schedule, warmup_epochs=warmup_epochs, step_epochs=None), capsys)
    assert not passed
    assert failed == {"updates, float64": {"learning rate, steps 1–20"}}


def test_schedule_wrong_long_after_the_twentieth_step(monkeypatch, capsys):
    def broken(*args, **settings):
        found = make_schedule(*args, **settings)
        return lambda t: found(t) * (0.999 if t == 1000 else 1.0)

    monkeypatch.setattr("mlp_lightning.commands.check.updates.make_schedule", broken)
    passed, failed, _ = run(build(schedule="cosine"), capsys, total_steps=3000)
    assert not passed
    assert failed == {"updates, float64": {"learning rate by schedule, steps 1–3000"}}


@pytest.mark.parametrize(
    ("option", "name", "clip"),
    [("clip_norm", "clip_norm_", clip_norm_), ("clip_value", "clip_value_", clip_value_)],
    ids=["norm", "value"],
)
def test_wrong_clipping_threshold(option, name, clip, monkeypatch, capsys):
    monkeypatch.setattr(transforms_file, name, lambda grad, limit, *norm: clip(grad, limit * 1.01, *norm))
    passed, failed, _ = run(build(**{option: 0.01}), capsys)
    assert not passed
    assert set(failed) == {"updates, float64"}
    assert failed["updates, float64"] <= gradient_rows(EVERY_GRADIENT)
    assert gradient_rows({f"{LAST}.weight"}) <= failed["updates, float64"]


@pytest.mark.parametrize(
    ("options", "spoil", "wrong"),
    [
        ({"averaging": "ema"}, lambda share: lambda t: share(t) * 1.001, {"weights", "step's number"}),
        ({"averaging": "swa", "swa_start": 0.0}, lambda share: lambda t: share(t + 1), {"weights", "step's number"}),
        # Too late for the first twenty steps to show.
        ({"averaging": "swa", "swa_start": 0.9}, lambda share: lambda t: share(t + 1), {"step's number"}),
    ],
    ids=["ema", "swa from the start", "swa at the end"],
)
def test_wrong_average(options, spoil, wrong, monkeypatch, capsys):
    name = options["averaging"]
    right = getattr(recipe, name)
    monkeypatch.setattr(recipe, name, lambda setting: spoil(right(setting)))
    _, failed, _ = run(build(**options), capsys)
    assert {row.removeprefix("average of the ").split(",")[0] for row in failed["updates, float64"]} == wrong


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_fail(bad, capsys):
    module = build()
    module.network.layers[2].weight[0, 0] = bad
    passed, failed, _ = run(module, capsys, precision="32-true")
    assert not passed
    assert set(failed) == {
        f"{part}, {dtype}" for part in ("gradients", "updates") for dtype in ("float64", "float32")
    } | {"differences, float64"}
    assert {"logits", "loss", "dx"} <= failed["gradients, float64"]


def test_data_that_are_not_finite_fail(capsys):
    batches = minibatches()
    batches[1].x[0, 0] = float("nan")
    passed, failed, _ = run(build(), capsys, batches)
    assert not passed
    assert set(failed) == {"updates, float64"}


def ascending(share, keep, keep_bias):
    return -share, keep, keep_bias


def forgetting_decay(share, keep, keep_bias):
    return share, 1.0, 1.0


def decaying_biases(share, keep, keep_bias):
    return share, keep, keep


@pytest.mark.parametrize(
    ("broken", "decay_biases", "wrong"),
    [
        pytest.param(ascending, True, EVERY_GRADIENT - {"dx"}, id="sign"),
        pytest.param(forgetting_decay, True, EVERY_GRADIENT - {"dx"}, id="no-decay"),
        pytest.param(forgetting_decay, False, WEIGHTS, id="no-decay-of-weights"),
        pytest.param(decaying_biases, False, BIASES, id="decay-of-biases"),
    ],
)
def test_wrong_sgd_inside_the_product(broken, decay_biases, wrong, monkeypatch, capsys):
    numbers = SGD.within_product
    monkeypatch.setattr(SGD, "within_product", lambda self, group: broken(*numbers(group)))
    passed, failed, _ = run(build(optimizer="sgd", weight_decay=0.1, decay_biases=decay_biases), capsys)
    assert not passed
    assert set(failed) == {"updates, float64"}
    assert movements(failed) == wrong


def test_sgd_inside_the_product_without_its_bias(monkeypatch, capsys):
    original = TorchPasses.update_in_product

    def broken(self, delta, step):
        bias = self.network.layers[delta.k].bias
        before = bias.clone()
        original(self, delta, step)
        bias.copy_(before)

    monkeypatch.setattr(TorchPasses, "update_in_product", broken)
    passed, failed, _ = run(build(optimizer="sgd"), capsys)
    assert not passed
    assert movements(failed) == BIASES


@pytest.mark.skipif(native_linear() is None, reason="no C compiler, or no BLAS that its code could call")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("owner", "method", "norm"),
    [
        pytest.param(NativeChain, "backward", "none", id="all layers"),
        pytest.param(NativeLinear, "relu_backward_", "layer", id="relu"),
        pytest.param(NativeLinear, "backward", "layer", id="layer"),
        pytest.param(NativeCrossEntropy, "_in_c", "none", id="loss"),
    ],
)
def test_formula_in_c_that_is_wrong(owner, method, norm, optimizer, monkeypatch, capsys):
    """The training in float32 runs in C: an error there alone is found."""
    original = getattr(owner, method)

    def broken(self, first, *args, **options):
        first.mul_(1.001)
        return original(self, first, *args, **options)

    monkeypatch.setattr(owner, method, broken)
    passed, failed, _ = run(build(activation="relu", norm=norm, optimizer=optimizer), capsys, precision="32-true")
    assert not passed
    # In groups what is wrong may be right, or wrong in another way.
    assert set(failed) - {"groups of updates, float32"} == {"updates, float32"}


def test_update_that_becomes_nan_fails(monkeypatch, capsys):
    update = SGD.update

    def broken(self, parameter, grad, state, group):
        update(self, parameter, grad, state, group)
        parameter[0] = float("nan")

    monkeypatch.setattr(SGD, "update", broken)
    passed, failed, _ = run(build(optimizer="sgd", momentum=0.9), capsys)
    assert not passed
    assert f"{FIRST}.weight, step 1" in failed["updates, float64"]


def test_gradient_that_is_not_zero_where_it_should_be(monkeypatch, capsys):
    original = mlp_file.linear_backward

    def broken(dz, x, dweight, dbias):
        original(dz, x, dweight, dbias)
        dweight[0, 0] += 1e-9

    monkeypatch.setattr(mlp_file, "linear_backward", broken)
    passed, failed, _ = run(build(init="zeros", activation="tanh"), capsys)
    assert not passed
    assert {f"{FIRST}.weight", "layers.1.weight"} <= failed["gradients, float64"]


class TestAdversary:
    """Each fault in the term of virtual adversarial training is named by the rows that it makes wrong, and no other."""

    DIRECTION, LENGTH, VALUE = (f"{name}, steps 1–20" for name in ("direction of r", "length of r", "λ KL"))
    GRADIENTS = gradient_rows(EVERY_GRADIENT)

    def failed(self, capsys, **options):
        passed, failed, _ = run(build(vat=0.7, activation="tanh", **options), capsys)
        assert not passed
        assert set(failed) == {"updates, float64"}
        return failed["updates, float64"]

    def test_sign_of_its_gradient(self, monkeypatch, capsys):
        backward = adversary_file.kl_backward
        monkeypatch.setattr(adversary_file, "kl_backward", lambda log_p, log_q: -backward(log_p, log_q))
        assert self.failed(capsys) == {self.DIRECTION, *self.GRADIENTS}

    def test_kl_the_other_way_round(self, monkeypatch, capsys):
        forward = adversary_file.kl_forward
        monkeypatch.setattr(adversary_file, "kl_forward", lambda log_p, log_q: forward(log_q, log_p))
        assert self.failed(capsys) == {self.VALUE}

    def test_weight(self, monkeypatch, capsys):
        backward = VirtualAdversary.backward
        monkeypatch.setattr(VirtualAdversary, "backward", lambda self, w, d, scale: backward(self, w, d, scale * 0.99))
        assert self.failed(capsys) == self.GRADIENTS

    def test_mean_over_weights_of_classes(self, monkeypatch, capsys):
        dloss = Engine._dloss
        monkeypatch.setattr(Engine, "_dloss", lambda self, n, logits: dloss(self, n * 1.0 if n != 12 else 11, logits))
        assert self.failed(capsys, class_weights=[0.1, 2.0, 1.0, 0.7]) == self.GRADIENTS

    def test_one_length_for_the_whole_minibatch(self, monkeypatch, capsys):
        monkeypatch.setattr(adversary_file, "_scale_rows_", lambda d, length: d.mul_(length / d.norm()))
        assert self.failed(capsys) >= {self.LENGTH}

    def test_length(self, monkeypatch, capsys):
        scale = adversary_file._scale_rows_
        monkeypatch.setattr(adversary_file, "_scale_rows_", lambda d, eps: scale(d, eps * (1.01 if eps == 2 else 1)))
        assert self.failed(capsys) == {self.DIRECTION, self.LENGTH}

    def test_backward_pass_to_the_input(self, monkeypatch, capsys):
        monkeypatch.setattr(adversary_file, "linear_backward_input", lambda dz, w, out: torch.mm(dz, w.t(), out=out))
        assert self.failed(capsys) == {self.DIRECTION}

    def test_directions_of_another_step(self, monkeypatch, capsys):
        start = Draws.start
        monkeypatch.setattr(
            engine_file.Draws, "start", lambda self, step, *rows: start(self, step + (len(rows) == 3), *rows)
        )
        assert self.failed(capsys) == {self.DIRECTION}

    def test_term_left_out_of_the_gradient(self, monkeypatch, capsys):
        monkeypatch.setattr(VirtualAdversary, "backward", lambda self, passes, dlogits, scale: passes.backward(dlogits))
        assert self.failed(capsys) == self.GRADIENTS

    def test_norms_without_their_share(self, monkeypatch, capsys):
        backward = VirtualAdversary.backward

        def broken(self, passes, dlogits, scale):
            for handed_out in backward(self, passes, dlogits, scale):
                k = handed_out[0]
                if k in passes.norm_gradients:
                    for total, share in zip(passes.norm_gradients[k], self.passes.norm_gradients[k], strict=True):
                        total -= share
                yield handed_out

        monkeypatch.setattr(VirtualAdversary, "backward", broken)
        norms = {f"norms.{k}.{kind}" for k in range(2) for kind in ("weight", "bias")}
        assert self.failed(capsys, norm="layer") == gradient_rows(norms)

    def test_input_dropout_forgotten_on_the_way_back(self, monkeypatch, capsys):
        monkeypatch.setattr(adversary_file, "dropout_backward", lambda da, mask: da)
        assert self.failed(capsys, input_dropout=0.3) == {self.DIRECTION}

    def test_rows_of_batch_norm_scaled_one_by_one(self, monkeypatch, capsys):
        """Harmless without it, but with it the samples' gradients are no longer in proportion."""
        backward = adversary_file.kl_backward

        def broken(log_p, log_q):
            dlogits = backward(log_p, log_q)
            return dlogits / dlogits.abs().amax(1, keepdim=True) if dlogits.abs().amax() < 1e-4 else dlogits

        monkeypatch.setattr(adversary_file, "kl_backward", broken)
        assert self.failed(capsys, norm="batch") == {self.DIRECTION}
