"""Predicted against measured step times."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.estimate.accuracy import Accuracy
from study.estimate.scored import ScoredPrediction
from study.sequences import evenly
from study.show.legend import add_legend, sample
from study.show.sheets import Sheet, empty_figure, label_log_axis, make_panels, write_figure
from study.show.style import IDEAL, PALETTE

MOST_POINTS = 100
"""Most points of a panel; of more predictions, those at evenly spaced ranks of the measured time
are drawn, and the legend says so."""

BEYOND = 3.0
"""The axes end within this factor of the points: longer intervals run into their edges."""

EMPTY = (
    "No run was predicted before it began and measured since, and no cluster has two measured "
    "configurations."
)

Predictions = Sequence[ScoredPrediction]


def plot_estimates(accuracy: Accuracy, folder: Path) -> list[Path]:
    """Draw predicted against measured step times; return the files written.

    There is a panel for predictions made before the runs, and one for those of each measured
    configuration from the others. Writes estimates to `folder`, in all forms.
    """
    kinds: dict[str, Predictions] = {
        "Predicted before the run": accuracy.backtest,
        "Predicted from the other configurations": accuracy.left_out,
    }
    known = {kind: items for kind, items in kinds.items() if items}
    draw = partial(_draw_estimates, known) if known else partial(empty_figure, EMPTY)
    return write_figure(folder / "estimates", draw)


def _draw_estimates(kinds: dict[str, Predictions], sheet: Sheet) -> Figure:
    labels = "Predicted step (ms)", "Measured step (ms)"
    figure, axes = make_panels(sheet, len(kinds), *labels, share_x=True)
    drawn: list[ScoredPrediction] = []
    for ax, (kind, items) in zip(axes, kinds.items(), strict=True):
        shown = evenly(sorted(items, key=lambda item: item.step_ms_measured), MOST_POINTS)
        _draw_points(ax, shown)
        hits = sum(item.inside for item in items)
        ax.set_title(f"{kind}\n{hits} of {len(items)} measured in the interval")
        drawn += shown
    low, high = _limits(drawn)
    for ax in axes:
        ax.plot([low, high], [low, high], ":", color=IDEAL, linewidth=1, zorder=1)
        ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for axis in (ax.xaxis, ax.yaxis):
            label_log_axis(axis, most=5)
    members = _explain(drawn)
    total = sum(map(len, kinds.values()))
    if len(drawn) < total:
        members.append(sample(f"{len(drawn)} of {total} predictions", linestyle=""))
    add_legend(figure, sheet, {"Measured step": members})
    return figure


def _look(inside: bool) -> dict[str, Any]:
    colour = PALETTE[0] if inside else PALETTE[5]
    return {"marker": "o", "color": colour, "mfc": colour if inside else "white"}


def _draw_points(ax: Axes, items: Predictions) -> None:
    for inside in (True, False):  # what is outside lies on top
        chosen = [item for item in items if item.inside == inside]
        middle = np.array([item.step_ms for item in chosen])
        ends = [
            middle - [item.step_ms_low for item in chosen],
            [item.step_ms_high for item in chosen] - middle,
        ]
        measured = [item.step_ms_measured for item in chosen]
        ax.errorbar(
            measured, middle, yerr=ends, linestyle="", elinewidth=1, mew=1.1, **_look(inside)
        )


def _limits(items: Predictions) -> tuple[float, float]:
    """Return the range of both axes."""
    points = np.array([[item.step_ms_measured, item.step_ms] for item in items])
    ends = np.array([[item.step_ms_low, item.step_ms_high] for item in items])
    low = min(points.min(), max(ends.min(), points.min() / BEYOND))
    high = max(points.max(), min(ends.max(), points.max() * BEYOND))
    return 0.93 * float(low), 1.07 * float(high)


def _explain(items: Predictions) -> list[Line2D]:
    """Return the legend's lines for what is drawn."""
    labels = {True: "in the 80% interval", False: "outside it"}
    found = {item.inside for item in items}
    points = [sample(label, **_look(inside)) for inside, label in labels.items() if inside in found]
    return [*points, sample("as predicted", color=IDEAL, linestyle=":", linewidth=1)]
