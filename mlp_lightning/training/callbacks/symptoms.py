"""From figures to words: what is wrong with a training, where, by how much, and what to try."""

import math
import statistics
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

Figures = dict[str, float]

EXPLODING_FACTOR = 100.0
MEDIAN_WINDOW = 100
MEDIAN_NEEDS = 5
VANISHING_FACTOR = 1e-6
LARGEST_SHARE = 0.5


class Symptom(NamedTuple):
    """A kind of trouble in a layer, and the words for it."""

    kind: str
    layer: int
    text: str


class Symptoms:
    """Finds each kind of trouble in each layer once.

    - exploding: a gradient's norm is not finite, or is the largest so far and above 100 times its median over the last
      100 records. Both, since late in a training a minibatch with one hard sample may exceed a tiny median. Of layers
      that explode at once the worst is named, the lowest of equals.
    - vanishing: the RMS of the first layer's delta, or its ‖ΔW‖/‖W‖, is below 10⁻⁶ of the last layer's.
    - dead, saturated: more than half of a layer's units, or of its activations.

    Args:
        n_layers: Of the network.
        activation: Of the hidden layers.
    """

    def __init__(self, n_layers: int, activation: str) -> None:
        self.n_layers = n_layers
        self.activation = activation
        self._norms: list[deque[float]] = [deque(maxlen=MEDIAN_WINDOW) for _ in range(n_layers)]
        self._largest = [0.0] * n_layers
        self._told: set[tuple[str, int]] = set()

    def state(self) -> dict[str, Any]:
        """What it has seen and told, for a checkpoint."""
        return {"norms": [list(norms) for norms in self._norms], "largest": self._largest, "told": sorted(self._told)}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up what another has seen and told."""
        self._norms = [deque(norms, maxlen=MEDIAN_WINDOW) for norms in state["norms"]]
        self._largest, self._told = list(state["largest"]), {(kind, layer) for kind, layer in state["told"]}

    def find(self, figures: Figures, step: int) -> list[str]:
        """What is wrong at a step and was not said before, a line each.

        Args:
            figures: ``gradient_norm/layer k``, ``update_ratio/layer k`` and ``delta_rms/layer k`` of every layer, and
                ``dead/layer k`` and ``saturated/layer k`` of those that have them.
            step: For the text.
        """
        lines = []
        for kind, layer, text in (*self._exploding(figures), *self._vanishing(figures), *self._idle(figures)):
            if (kind, layer) not in self._told:
                self._told.add((kind, layer))
                lines.append(f"warning: layer {layer} is {kind} at step {step}: {text}")
        return lines

    def _exploding(self, figures: Figures) -> Iterator[Symptom]:
        found: list[tuple[float, Symptom]] = []
        for k, norms in enumerate(self._norms):
            norm = figures[f"gradient_norm/layer {k}"]
            text = f"the norm of its gradient is {norm:.3g}"
            advice = "try a smaller model.lr or model.clip_norm 1"
            if not math.isfinite(norm):
                found.append((math.inf, Symptom("exploding", k, f"{text}; {advice}")))
                continue
            if len(norms) >= MEDIAN_NEEDS and norm > self._largest[k]:
                median = statistics.median(norms)
                if norm > EXPLODING_FACTOR * median:
                    factor = norm / median if median else math.inf
                    text = f"{text}, its running median {median:.3g}"
                    found.append((factor, Symptom("exploding", k, f"{text}; {advice}")))
            norms.append(norm)
            self._largest[k] = max(self._largest[k], norm)
        if found:
            yield max(found, key=lambda pair: pair[0])[1]

    def _vanishing(self, figures: Figures) -> Iterator[Symptom]:
        for name, words in (("delta_rms", "the RMS of its delta"), ("update_ratio", "its ‖ΔW‖/‖W‖")):
            first, last = figures[f"{name}/layer 0"], figures[f"{name}/layer {self.n_layers - 1}"]
            if first < VANISHING_FACTOR * last < math.inf:
                text = (
                    f"{words} is {first:.3g}, the last layer's {last:.3g}; "
                    "try model.activation relu with model.init he_normal, or fewer hidden layers"
                )
                yield Symptom("vanishing", 0, text)

    def _idle(self, figures: Figures) -> Iterator[Symptom]:
        for k in range(self.n_layers):
            dead = figures.get(f"dead/layer {k}", 0.0)
            if dead > LARGEST_SHARE:
                text = (
                    f"{dead:.0%} of its units have derivative 0 for every sample of the minibatch; "
                    "try a smaller model.lr, model.init he_normal or model.activation leaky_relu"
                )
                yield Symptom("dead", k, text)
            saturated = figures.get(f"saturated/layer {k}", 0.0)
            if saturated > LARGEST_SHARE:
                text = (
                    f"{saturated:.0%} of its activations lie within 0.01 of {self.activation}'s bounds; "
                    "try model.init glorot_uniform, a smaller model.lr or model.activation relu"
                )
                yield Symptom("saturated", k, text)
