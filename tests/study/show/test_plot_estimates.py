"""Predicted against measured step times."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from study.estimate.accuracy import Accuracy
from study.estimate.scored import ScoredPrediction
from study.show.plot_estimates import MOST_POINTS, plot_estimates
from tests.study.show.drawn import figures_of, legend_texts


def left_out(measured: float, low: float, middle: float, high: float) -> ScoredPrediction:
    inside = low <= measured <= high
    return ScoredPrediction("cell", middle, low, high, measured, middle / measured - 1, inside)


def before(item: ScoredPrediction) -> ScoredPrediction:
    return replace(item, predicted="2026-01-01T00:00:00+00:00", basis="Estimated")


def draw(accuracy: Accuracy, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    drawn = figures_of(monkeypatch)
    plot_estimates(accuracy, Path())
    return drawn["estimates"]


HIT, MISS = left_out(100.0, 90.0, 105.0, 120.0), left_out(20.0, 25.0, 30.0, 36.0)


def test_both_kinds_have_a_panel_with_their_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    for figure in draw(Accuracy([], [HIT, MISS], [before(HIT)]), monkeypatch):
        first, second = figure.axes
        assert first.get_title(loc="left") == (
            "Predicted before the run\n1 of 1 measured in the interval"
        )
        assert second.get_title(loc="left") == (
            "Predicted from the other configurations\n1 of 2 measured in the interval"
        )
        points = {
            (line.get_xdata()[0], line.get_ydata()[0])
            for line in second.lines
            if line.get_marker() == "o" and len(line.get_xdata())
        }
        assert points == {(100.0, 105.0), (20.0, 30.0)}
        intervals = [
            sorted(path[:, 1]) for bars in second.collections for path in bars.get_segments()
        ]
        assert sorted(intervals) == [[25.0, 36.0], [90.0, 120.0]]
        for ax in figure.axes:
            assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
            assert ax.get_xlim() == ax.get_ylim()
            (ideal,) = (line for line in ax.lines if line.get_linestyle() == ":")
            assert list(ideal.get_xdata()) == list(ideal.get_ydata())
            ticks = ax.get_xticks()
            assert 2 <= len(ticks) <= 5
            assert ax.get_xlim()[0] <= ticks[0] and ticks[-1] <= ax.get_xlim()[1]
        assert legend_texts(figure)[:4] == [
            *("Measured step", "in the 80% interval", "outside it", "as predicted")
        ]


def test_one_kind_is_one_panel_and_the_legend_has_only_what_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for figure in draw(Accuracy([], [HIT], []), monkeypatch):
        assert len(figure.axes) == 1
        assert "outside it" not in legend_texts(figure)


def test_an_interval_without_a_bound_does_not_squeeze_the_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = left_out(100.0, 0.0, 100.0, 1e9)
    for figure in draw(Accuracy([], [wide, HIT], []), monkeypatch):
        low, high = figure.axes[0].get_xlim()
        assert 30 < low < 90 and 120 < high < 350


def test_of_many_predictions_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [left_out(n, 0.9 * n, 1.0 * n, 1.1 * n) for n in range(1, 1001)]
    for figure in draw(Accuracy([], many, []), monkeypatch):
        assert f"{MOST_POINTS} of 1000 predictions" in legend_texts(figure)
        assert "1000 of 1000 measured" in figure.axes[0].get_title(loc="left")
