"""Bars of the time by part."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.grid import Cell, Grid
from study.measure.time_by_part import PARTS
from study.show.plot_times import MOST_BARS, plot_times
from tests.study.conftest import MakeGrid
from tests.study.show.drawn import figures_of, legend_texts


def parts(**seconds: float) -> dict[str, float]:
    return {part: seconds.get(part, 0.0) for part in PARTS}


def draw(
    grid: Grid,
    times: list[tuple[Cell, dict[str, float] | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> list[Figure]:
    drawn = figures_of(monkeypatch)
    plot_times(grid, times, Path())
    return drawn["time_by_part"]


def widths(ax: Axes) -> dict[str, list[float]]:
    """Return part -> shares of the bars, from the top, in percent."""
    labels = legend_texts(ax.figure)  # type: ignore[arg-type]
    colours = [handle.get_facecolor() for handle in ax.figure.legends[0].legend_handles]
    return {
        label: [round(100 * p.get_width(), 2) for p in ax.patches if p.get_facecolor() == colour]
        for label, colour in zip(labels, colours, strict=True)
    }


def test_bars_have_the_shares_of_their_parts(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds of 10 and 30 s are one bar of 20 s; what nobody can see is said, not hidden."""
    block = {"cluster": "here", "model": "tiny", "gpus": [1, 2], "seed": [1, 2]}
    grid = make_grid({"grid": [block]})
    first, second, third, fourth = grid
    times = [
        (first, parts(compute=6.0, save=3.96, data=0.04)),
        (second, parts(compute=30.0)),
        (third, parts(compute=50.0, save=150.0)),
        (fourth, None),  # it has not finished a step
    ]
    for figure in draw(grid, times, monkeypatch):
        (ax,) = figure.axes
        assert widths(ax) == {
            "compute": [90, 25],
            "data (<0.5%)": [0.1, 0],
            "save": [9.9, 75],
        }
        assert [text.get_text() for text in ax.texts] == ["total", "20 s", "3.3 min"]
        assert [t.get_text() for t in ax.get_yticklabels()] == ["tiny, 1 GPU", "tiny, 2 GPUs"]
        assert "mean over seeds" in ax.get_xlabel()


def test_of_many_configurations_some_are_drawn(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"variants": {f"v{n}": {"optim": {"lr": n * 1e-5}} for n in range(1, 100)}}
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "variant": list(changes["variants"])}
    grid = make_grid({**changes, "grid": [block]})
    for figure in draw(grid, [(cell, parts(compute=1.0)) for cell in grid], monkeypatch):
        (ax,) = figure.axes
        names = [t.get_text() for t in ax.get_yticklabels()]
        assert len(names) == len(ax.patches) == MOST_BARS
        assert (names[0], names[-1]) == ("tiny, v1", "tiny, v99")
        assert f"({MOST_BARS} of 99 configurations)" in ax.get_xlabel()
        assert figure.get_size_inches()[1] < 10  # a page
