import math

import pytest

from mlp_lightning.training.callbacks.symptoms import Symptoms

LAYERS = 3


def figures(**changes: float) -> dict[str, float]:
    """Those of a healthy step, with changes such as ``dead_1=0.6``."""
    healthy: dict[str, float] = {}
    for k in range(LAYERS):
        healthy |= {f"gradient_norm/layer {k}": 1.0, f"update_ratio/layer {k}": 1e-3, f"delta_rms/layer {k}": 0.1}
        if k < LAYERS - 1:
            healthy |= {f"dead/layer {k}": 0.1, f"saturated/layer {k}": 0.1}
    for name, value in changes.items():
        quantity, _, k = name.rpartition("_")
        healthy[f"{quantity}/layer {k}"] = value
    return healthy


@pytest.fixture
def symptoms():
    return Symptoms(LAYERS, "sigmoid")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"dead_1": 0.625}, ["layer 1 is dead", "62% of its units", "model.lr"], id="dead"),
        pytest.param({"saturated_0": 0.8}, ["layer 0 is saturated", "80%", "sigmoid's", "model.init"], id="saturated"),
        pytest.param(
            {"delta_rms_0": 9e-8}, ["layer 0 is vanishing", "RMS", "9e-08", "0.1", "model.init"], id="vanishing-delta"
        ),
        pytest.param({"update_ratio_0": 9e-10}, ["layer 0 is vanishing", "‖ΔW‖", "9e-10"], id="vanishing-update"),
        pytest.param({"gradient_norm_2": math.nan}, ["layer 2 is exploding", "nan", "model.lr"], id="nan"),
        pytest.param({"gradient_norm_1": math.inf}, ["layer 1 is exploding", "inf", "clip_norm"], id="infinite"),
    ],
)
def test_a_warning_says_where_when_how_much_and_what_to_try(symptoms, changes, words):
    (line,) = symptoms.find(figures(**changes), 150)
    assert "at step 150" in line
    assert "try" in line
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="healthy"),
        pytest.param({"dead_1": 0.5}, id="half-dead"),
        pytest.param({"saturated_1": 0.5}, id="half-saturated"),
        pytest.param({"delta_rms_0": 1.1e-7}, id="small-delta"),
        pytest.param({"update_ratio_0": 0.0, "update_ratio_2": 0.0}, id="learning-rate-0"),
        pytest.param({"update_ratio_2": math.inf}, id="weights-from-zero"),
        pytest.param({"update_ratio_0": math.nan, "update_ratio_2": math.nan}, id="zero-weights-not-moved"),
        pytest.param({"delta_rms_1": 0.0}, id="middle-layer"),
        pytest.param({"gradient_norm_1": 0.0}, id="no-gradient"),
    ],
)
def test_no_warning(symptoms, changes):
    for step in range(10):
        assert symptoms.find(figures(**changes), step) == []


def test_each_kind_and_layer_is_told_once(symptoms):
    assert len(symptoms.find(figures(dead_1=0.6), 50)) == 1
    assert symptoms.find(figures(dead_1=0.9), 100) == []
    assert len(symptoms.find(figures(dead_0=0.9, dead_1=0.9), 150)) == 1
    assert len(symptoms.find(figures(saturated_1=0.9), 200)) == 1


def records(symptoms: Symptoms, norms: list[float]) -> list[int]:
    """The records at which layer 1 explodes."""
    return [step for step, norm in enumerate(norms) if symptoms.find(figures(gradient_norm_1=norm), step)]


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        pytest.param([1.0] * 5 + [101.0], [5], id="jump"),
        pytest.param([1.0] * 5 + [99.0], [], id="below-the-factor"),
        pytest.param([1.0, 101.0, 1.0], [], id="too-early-for-a-median"),
        pytest.param([1e-9] * 5 + [1e-6], [5], id="relative"),
        pytest.param([0.0] * 5 + [1e-6], [5], id="from-nothing"),
        pytest.param([10.0] + [0.01] * 50 + [5.0], [], id="a-hard-minibatch-late-in-training"),
        pytest.param([10.0] + [0.01] * 50 + [11.0], [51], id="beyond-all-before"),
        pytest.param([1.2**k for k in range(40)], [], id="growth-that-the-median-follows"),
        pytest.param([2.0**k for k in range(40)], [13], id="growth-that-it-does-not"),
    ],
)
def test_exploding_is_judged_by_the_running_median(symptoms, norms, expected):
    assert records(symptoms, norms) == expected


def test_the_worst_of_the_layers_that_explode_at_once_is_named(symptoms):
    for step in range(5):
        symptoms.find(figures(), step)
    (line,) = symptoms.find(figures(gradient_norm_0=200.0, gradient_norm_1=900.0, gradient_norm_2=300.0), 5)
    assert "layer 1 is exploding" in line
    assert "900" in line
    every = {f"gradient_norm_{k}": math.nan for k in range(LAYERS)}
    (line,) = symptoms.find(figures(**every), 6)
    assert "layer 0 is exploding" in line
