"""The time of runs by part, as stacked bars."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from study.formats import format_number_of, format_seconds
from study.grid import Cell, Grid
from study.kinds import name_kind, names_trainers
from study.measure.time_by_part import PARTS
from study.sequences import evenly
from study.show.sheets import Sheet, empty_figure, write_figure
from study.show.style import IDEAL, PALETTE

MOST_BARS = 40
"""Most bars; of more configurations, evenly spaced ones are drawn, and the axis says so."""

COLOURS = dict(zip(PARTS, (*PALETTE[: len(PARTS) - 1], IDEAL), strict=True))
"""Part of the time -> its colour; the rest is grey."""

UNSEEN = 0.005
"""Share of a bar that is too narrow to be seen; the legend says so."""


def plot_times(
    grid: Grid, times: Iterable[tuple[Cell, dict[str, float] | None]], folder: Path
) -> list[Path]:
    """Draw the time of each configuration's runs by part; return the files written.

    `times`: cell and `time_by_part` of its run. Of several seeds the mean is drawn. Writes
    time_by_part to `folder`, in all forms.
    """
    name, alike = _namer(grid), dict[str, list[dict[str, float]]]()
    for cell, parts in times:
        if parts is not None and math.fsum(parts.values()) > 0:
            alike.setdefault(name(cell), []).append(parts)
    if alike:
        draw = partial(_draw_times, alike)
    else:
        draw = partial(empty_figure, "No run has finished its first step yet.")
    return write_figure(folder / "time_by_part", draw)


def _namer(grid: Grid) -> Callable[[Cell], str]:
    """Return a function of a cell: what tells its configuration from the others of the study."""
    several_counts, several_clusters = (
        len({getattr(cell, axis) for cell in grid}) > 1 for axis in ("gpus", "cluster")
    )
    with_trainer = names_trainers(grid)

    def name(cell: Cell) -> str:
        parts = [cell.model]
        if several_counts:
            parts.append(format_number_of(cell.gpus, "GPU"))
        if with_trainer or cell.variant != "base":
            parts.append(name_kind(cell, with_trainer))
        if several_clusters:
            parts.append(cell.cluster)
        return ", ".join(parts)

    return name


def _draw_times(alike: dict[str, list[dict[str, float]]], sheet: Sheet) -> Figure:
    """Draw a bar for each configuration; `alike`: its name -> the parts of each of its runs."""
    names = evenly(list(alike), MOST_BARS)
    seconds = {
        part: np.array([fmean(parts[part] for parts in alike[name]) for name in names])
        for part in PARTS
    }
    totals = np.sum(list(seconds.values()), axis=0)
    figure = Figure(figsize=(sheet.width, 1.1 + 0.17 * len(names)))
    ax = figure.subplots()
    places, left, keys = np.arange(len(names)), np.zeros(len(names)), []
    for part, values in seconds.items():
        if not values.any():
            continue
        share = values / totals
        ax.barh(places, share, left=left, color=COLOURS[part])
        left += share
        note = f" (<{UNSEEN:.1%})" if share.max() < UNSEEN else ""
        keys.append(Patch(color=COLOURS[part], label=part + note))
    for place, text in [(-1.0, "total"), *enumerate(map(format_seconds, totals))]:
        ax.text(1.01, place, text, va="center", fontsize=6.5)
    ax.set_yticks(places, sheet.shorten(names))
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(visible=False, axis="y")
    notes = ["mean over seeds"] if any(len(alike[name]) > 1 for name in names) else []
    if len(names) < len(alike):
        notes.append(f"{len(names)} of {len(alike)} configurations")
    between = "\n" if sheet.is_narrow else " "
    ax.set_xlabel("Share of the run's time" + (f"{between}({', '.join(notes)})" if notes else ""))
    columns = 4 if sheet.is_narrow else len(keys)
    figure.legend(
        # Row by row; matplotlib fills columns.
        handles=[key for column in range(columns) for key in keys[column::columns]],
        loc="outside upper center", ncols=columns, handlelength=1, columnspacing=1.2,
    )  # fmt: skip
    return figure
