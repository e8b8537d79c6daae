import numpy as np
import pytest

from mlp_lightning.figures.comparison import comparison_figure


def test_line_is_the_mean_over_seeds_and_the_band_its_spread() -> None:
    seeds = [([10, 20], [0.5, 0.9]), ([10, 20], [0.7, 0.8])]
    figure = comparison_figure({"relu": seeds}, "A title")
    axes = figure.axes[0]
    (line,) = (line for line in axes.lines if len(line.get_xdata()))
    np.testing.assert_allclose(line.get_xdata(), [10, 20])
    np.testing.assert_allclose(line.get_ydata(), [0.6, 0.85])
    band = axes.collections[0].get_paths()[0].vertices
    spread = np.std([0.5, 0.7], ddof=1)
    np.testing.assert_allclose(
        sorted({round(y, 6) for x, y in band if x == 10}), [0.6 - spread, 0.6 + spread], atol=1e-6
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["relu"]


def test_every_experiment_has_a_colour_of_its_own() -> None:
    figure = comparison_figure({f"run {i}": [([1, 2], [0.1 * i, 0.2 * i])] for i in range(1, 13)}, "Many")
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert len({tuple(colour) for colour in colours}) == 12


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [([], [])]}], ids=["none", "no seed", "no record"])
def test_nothing_recorded_is_said(curves: dict) -> None:
    texts = [text.get_text() for text in comparison_figure(curves, "Empty").axes[0].texts]
    assert texts == ["nothing recorded"]


def test_seed_without_records_is_left_out() -> None:
    figure = comparison_figure({"a": [([], []), ([5, 6], [0.4, 0.6])], "b": [([5], [0.3])]}, "Ragged")
    assert sorted(len(line.get_xdata()) for line in figure.axes[0].lines) == [1, 2]
