import numpy as np
import pytest
import torch

from mlp_lightning.figures import curves_figure

NAN, INF = float("nan"), float("inf")
STEPS = np.arange(100, 2100, 100)
LOSS = 1 / np.arange(1, 21)
HISTORY = {
    "train/loss": (STEPS, LOSS),
    "val/loss": (STEPS[::2], 1.1 * LOSS[::2]),
    "val/accuracy": (STEPS[::4], np.array([0.9, 0.95, 0.985, 0.98, 0.985])),
}


def lines(figure):
    return {line.get_label(): line for axes in figure.axes for line in axes.lines}


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_series_is_drawn_on_its_axis():
    figure = curves_figure(HISTORY, "Run")
    left, right = figure.axes
    assert figure.get_suptitle() == "Run"
    assert (left.get_xlabel(), left.get_ylabel(), right.get_ylabel()) == ("training step", "loss", "accuracy")
    drawn = lines(figure)
    for key, label, axes in [
        ("train/loss", "training loss", left),
        ("val/loss", "validation loss", left),
        ("val/accuracy", "validation accuracy", right),
    ]:
        assert drawn[label].axes is axes
        np.testing.assert_array_equal(drawn[label].get_xydata(), np.stack(HISTORY[key], axis=1))
    assert len({drawn[label].get_color() for label in legend_texts(figure)[:3]}) == 3


def test_first_best_accuracy_is_marked():
    figure = curves_figure(HISTORY, "t")
    star = lines(figure)["best 98.50 % at step 900"]
    assert star.get_xydata().tolist() == [[900, 0.985]]
    assert "best 98.50 % at step 900" in legend_texts(figure)


def test_accuracy_axis_is_in_percent_and_ends_at_100():
    right = curves_figure(HISTORY, "t").axes[1]
    low, high = right.get_ylim()
    assert low < 0.9
    assert 1 <= high < 1.01
    assert right.yaxis.get_major_formatter()(0.95) == "95.0 %"


def test_steps_have_thousands_separators():
    axis = curves_figure(HISTORY, "t").axes[0].xaxis
    assert axis.get_major_formatter()(14000) == "14,000"


@pytest.mark.parametrize(
    ("values", "lowest_top", "highest_top"),
    [
        pytest.param(LOSS, 1, 1.2, id="all of a usual curve"),
        pytest.param([900, *LOSS], 1, 10, id="huge first value"),
        pytest.param([1000, 1], 1, 10, id="huge first of two values"),
        pytest.param([1e38, 1, 0.5, 0.4], 1, 10, id="nearly overflown first value"),
        pytest.param([0.5], 0.5, 1, id="single value"),
        pytest.param([0, 0, 0], 0.1, 10, id="zeros"),
        pytest.param([0, 0, 0, 2], 2, 3, id="zeros but for one"),
        pytest.param([INF, *LOSS, NAN], 1, 1.2, id="infinite and NaN"),
        pytest.param([NAN, NAN], 0.1, 10, id="NaN only"),
    ],
)
def test_loss_axis_starts_at_zero_and_shows_the_usual_values(values, lowest_top, highest_top, cut_off):
    figure = curves_figure({"train/loss": (range(len(values)), values)}, "t")
    assert cut_off(figure) == []
    bottom, top = figure.axes[0].get_ylim()
    assert bottom == 0
    assert lowest_top <= top <= highest_top


def test_loss_axis_shows_the_higher_of_two_curves():
    figure = curves_figure({"train/loss": (STEPS, 0.001 * LOSS), "val/loss": ([2000], [3.0])}, "t")
    assert figure.axes[0].get_ylim()[1] > 3


def test_chance_at_first_does_not_squeeze_the_accuracies():
    accuracy = [0.1, 0.95, 0.96, 0.97, 0.98]
    low, _ = curves_figure({"val/accuracy": (range(5), accuracy)}, "t").axes[1].get_ylim()
    assert 0.5 < low < 0.95


@pytest.mark.parametrize("key", ["train/loss", "val/loss", "val/accuracy"])
def test_values_that_are_not_finite_are_crosses_and_leave_the_curve(key):
    steps, values = [1, 2, 3, 4, 5], [0.5, NAN, 0.4, INF, -INF]
    drawn = lines(curves_figure({key: (steps, values)}, "t"))
    crosses = drawn["not finite"]
    assert crosses.get_xdata().tolist() == [2, 4, 5]
    assert all(0.9 < height < 1 for height in crosses.get_ydata())  # of the height of the axes
    assert crosses.get_transform() == crosses.axes.get_xaxis_transform()
    curve = next(line for label, line in drawn.items() if label.startswith(("training", "validation")))
    assert curve.get_xydata().tolist() == [[1, 0.5], [3, 0.4]]


def test_accuracy_that_is_never_finite_has_no_best():
    figure = curves_figure({"val/accuracy": ([1, 2], [NAN, NAN])}, "t")
    assert not any("best" in text for text in legend_texts(figure))


@pytest.mark.parametrize("missing", list(HISTORY))
def test_missing_series(missing, cut_off):
    figure = curves_figure({key: pair for key, pair in HISTORY.items() if key != missing}, "t")
    assert cut_off(figure) == []
    label = {"train/loss": "training loss", "val/loss": "validation loss", "val/accuracy": "validation accuracy"}
    assert {label[key] in legend_texts(figure) for key in HISTORY if key != missing} == {True}
    assert label[missing] not in legend_texts(figure)


@pytest.mark.parametrize(
    "history",
    [pytest.param({}, id="no series"), pytest.param({"train/loss": ([], []), "val/loss": ([], [])}, id="empty series")],
)
def test_nothing_recorded(history, cut_off):
    figure = curves_figure(history, "t")
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing recorded"]
    assert cut_off(figure) == []


def test_single_points_are_visible_points():
    figure = curves_figure({key: ([0], [0.5]) for key in HISTORY}, "t")
    assert lines(figure)["training loss"].get_marker() == "o"


def test_legend_of_a_diverging_run_fits(cut_off):
    history = {key: (STEPS, np.where(STEPS > 1000, NAN, 0.5)) for key in HISTORY}
    figure = curves_figure(history, "t")
    assert cut_off(figure) == []
    assert legend_texts(figure).count("not finite") == 3


def test_tensors_and_lists_give_the_same_curve():
    values = [0.5, 0.25, 0.125]
    drawn = [
        lines(curves_figure({"val/loss": given}, "t"))["validation loss"].get_xydata().tolist()
        for given in [([1, 2, 3], values), (torch.tensor([1, 2, 3]), torch.tensor(values))]
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        pytest.param({"val/acc": ([1], [1])}, "'val/acc'", id="unknown key"),
        pytest.param({"val/loss": ([1, 2], [1])}, r"val/loss.*\(2,\) and \(1,\)", id="lengths differ"),
        pytest.param({"val/loss": ([[1]], [[1]])}, r"val/loss.*\(1, 1\)", id="matrices"),
    ],
)
def test_bad_input(history, message):
    with pytest.raises(ValueError, match=message):
        curves_figure(history, "t")
