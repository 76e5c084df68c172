"""Throughput and scaling efficiency against GPU count."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from study.grid import Cell, Grid
from study.measure.throughput_table import settled_seeds
from study.points import CELL_NAME
from study.show.legend import LETTER, add_legend, legend_sections, sample
from study.show.sheets import Sheet, empty_figure, label_log_axis, make_panels, write_figure
from study.show.style import IDEAL, Style


@dataclass(frozen=True, kw_only=True)
class ScalingFigure:
    """A column of the throughput table, drawn against GPU count."""

    column: str
    label: str
    """Label of the vertical axis, with its unit."""
    scale: Literal["log", "percent", "linear"]
    """Scale of the vertical axis. percent: the column holds fractions."""
    reference: Literal["linear scaling", "one"] | None
    """Dotted line: linear scaling of each model's base from its smallest GPU count, or the
    constant 1."""
    empty_message: str
    """Shown if the column has no value."""


SCALING_FIGURES = {
    "throughput": ScalingFigure(
        column="tokens_per_s",
        label="Throughput (tokens/s)",
        scale="log",
        reference="linear scaling",
        empty_message="No run has been measured yet.",
    ),
    "scaling_efficiency": ScalingFigure(
        column="scaling_efficiency",
        label="Scaling efficiency (tokens/s/GPU, relative)",
        scale="percent",
        reference="one",
        empty_message="No run has another one to be compared with yet.",
    ),
}
"""File name without suffix -> figure."""


def plot_scaling(grid: Grid, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw throughput and scaling efficiency against GPU count; return the files written.

    `table` is a throughput table. Writes `SCALING_FIGURES` to `folder`, each in all forms.
    """
    style = Style.of(grid)
    paths = []
    for name, drawn in SCALING_FIGURES.items():
        known = settled_seeds(table[table[drawn.column].notna()])
        if known.empty:
            draw = partial(empty_figure, drawn.empty_message)
        else:
            draw = partial(_draw_scaling, grid, style, known, drawn)
        paths += write_figure(folder / name, draw)
    return paths


def _draw_scaling(
    grid: Grid, style: Style, table: pd.DataFrame, drawn: ScalingFigure, sheet: Sheet
) -> Figure:
    """Draw a column of the throughput table against GPU count, a panel for each cluster.

    Every row of `table` has a value in the column.
    """
    clusters = list(table["cluster"].unique())
    figure, axes = make_panels(sheet, len(clusters), drawn.label, "GPU count", False)
    shown, several, has_reference = [], False, drawn.reference == "one"
    for ax, cluster in zip(axes, clusters, strict=True):
        here = table[table["cluster"] == cluster]
        counts = np.array(sorted(here["gpus"].unique()), dtype=float)
        for _, group in here.groupby(["model", "variant"], sort=False):
            cell = grid.by_name[CELL_NAME.format(**group.iloc[0])]
            shown.append(cell)
            seeds = group.groupby("gpus")[drawn.column].agg(["median", "min", "max", "size"])
            several |= bool((seeds["size"] > 1).any())
            _draw_series(ax, style, cell, seeds)
            if drawn.reference == "linear scaling" and cell.variant == "base" and len(seeds) > 1:
                has_reference = True
                per_gpu = seeds["median"].iloc[0] / seeds.index[0]
                ax.plot(counts, per_gpu * counts, ":", color=IDEAL, linewidth=1, zorder=1)
        if drawn.reference == "one":
            ax.axhline(1, color=IDEAL, linestyle=":", linewidth=1, zorder=1)
        _gpu_ticks(ax, counts)
        ax.set_title(f"{cluster} ({cell.cluster_config.gpu_name})")
    _scale_values(axes[0], drawn.scale, table[drawn.column])
    extra = [sample("range of the seeds", marker="|", ms=8, mew=1.2)] if several else []
    if has_reference:
        extra.append(sample("linear scaling", color=IDEAL, linestyle=":", linewidth=1))
    add_legend(figure, sheet, legend_sections(style, shown, extra=extra, lines=False))
    return figure


def _scale_values(ax: Axes, scale: str, values: pd.Series) -> None:
    """Scale the vertical axis, which all panels share."""
    if scale == "log":
        ax.set_yscale("log")
        label_log_axis(ax.yaxis)
    elif scale == "percent":
        # Not from 0, which would hide differences; not tight, which would magnify noise.
        low = max(0.0, min(0.8, np.floor(10 * values.min() - 0.2) / 10))
        ax.set_ylim(low, max(1.05, values.max() + 0.03))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        ax.set_ylim(0, 1.05 * values.max() or None)


def _draw_series(ax: Axes, style: Style, cell: Cell, seeds: pd.DataFrame) -> None:
    """Draw the values of a model and variant; of several seeds, the median and the range.

    `seeds`: GPU count -> median, min, max.
    """
    middle = seeds["median"].to_numpy(dtype=float)
    low, high = (seeds[end].to_numpy(dtype=float) for end in ("min", "max"))
    ax.errorbar(
        seeds.index.to_numpy(dtype=float),
        middle,
        yerr=[middle - low, high - middle] if (high > low).any() else None,
        color=style.colours[cell.model],
        marker=style.markers[cell.variant],
        # Hollow, and larger than what it may lie on.
        markerfacecolor="none" if cell.variant != "base" else style.colours[cell.model],
        markersize=7 if cell.variant != "base" else 4.5,
        linestyle=style.trainers[cell.trainer],
        linewidth=1.4,
        elinewidth=1,
        capsize=2,
    )


class CountFormatter(StrMethodFormatter):
    """Labels ticks with GPU counts."""

    def format_ticks(self, values: list[float]) -> list[str]:
        """Return the labels, without those that would touch another: the ends are kept, then powers
        of two."""
        labels = [self(value) for value in values]
        ax: Any = self.axis.axes  # type: ignore[union-attr]
        points = ax.transData.transform([(value, ax.get_ylim()[0]) for value in values])
        places = points[:, 0] / ax.figure.dpi
        powers = [i for i, count in enumerate(values) if np.log2(count).is_integer()]
        kept: list[int] = []
        for i in dict.fromkeys([0, len(labels) - 1, *powers, *range(len(labels))]):
            widths = [LETTER * (len(labels[i]) + len(labels[k]) + 1) / 2 for k in kept]
            gaps = [abs(places[i] - places[k]) for k in kept]
            if all(gap > width for gap, width in zip(gaps, widths, strict=True)):
                kept.append(i)
        return [label if i in kept else "" for i, label in enumerate(labels)]


def _gpu_ticks(ax: Axes, counts: np.ndarray) -> None:
    """Label the axis with the measured GPU counts only, as many as there is room for."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(list(counts)))
    ax.xaxis.set_major_formatter(CountFormatter("{x:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
