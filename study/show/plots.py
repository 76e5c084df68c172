"""The figures: loss curves, throughput and scaling efficiency.

A figure draws finished tables and fits nothing. Colour shows the model, by size; line style the GPU
count, or in figures over GPU counts the trainer; marker the variant and trainer. Seeds are one line
with a band. Equal input gives equal bytes.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from study.estimate.time_table import format_count
from study.grid import Cell, Grid
from study.measure.logs import Run
from study.points import AXES
from study.show.curves import Curve, band
from study.show.selection import evenly
from study.show.sheets import STYLE, Sheet, empty_figure, label_log_axis, write_figure
from study.trainers import DEFAULT_TRAINER

PALETTE = tuple(rc_params_from_file(STYLE)["axes.prop_cycle"].by_key()["color"])
"""The colours of the style."""

STYLES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (10, 3)), (0, (1, 3)))
"""Line styles of the GPU counts, in ascending order, or of the trainers."""

MARKERS = "osD^vP*X"
"""Markers of the variants; the first is for `base`."""

MOST_LINES = 8
"""Most lines in one panel of loss curves; with more, each GPU count gets its own panel, and if that
is not enough, the runs of each model in a panel are drawn as one band."""

MOST_PANELS = 9
"""Most panels of loss curves; of more GPU counts, evenly spaced ones are shown."""

IDEAL = "#888888"
"""Colour of reference lines."""


@dataclass(frozen=True, kw_only=True)
class ScalingFigure:
    """A column of the throughput table, drawn against GPU count."""

    column: str
    label: str
    """Label of the vertical axis, with its unit."""
    scale: Literal["log", "percent", "linear"]
    """Scale of the vertical axis. percent: the column holds fractions."""
    reference: Literal["linear scaling", "one"] | None
    """Dotted line: linear scaling from each model's smallest GPU count, or the constant 1."""
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

LEGEND_LINE = 0.16
"""Height of a line of the legend, inches."""

Size = TypeVar("Size")


@dataclass(frozen=True)
class Style:
    """The look of each model, GPU count and variant, the same in all figures of a study."""

    colours: dict[str, Any]
    """Model -> colour, by ascending size."""
    lines: dict[int, Any]
    """GPU count -> line style, in ascending order."""
    markers: dict[str, str]
    """Variant -> marker, `base` first."""
    trainers: dict[str, Any]
    """Trainer -> line style, ours first."""
    sizes: dict[str, int]
    """Model -> parameters."""

    @classmethod
    def of(cls, grid: Grid) -> "Style":
        """Return the style of a study's cells."""
        by_size = sorted(((cell.model, cell.params) for cell in grid), key=lambda item: item[1])
        sizes = dict(by_size)
        gpus = sorted({cell.gpus for cell in grid})
        variants = dict.fromkeys(["base", *(cell.variant for cell in grid)])
        trainers = dict.fromkeys([DEFAULT_TRAINER, *(cell.trainer for cell in grid)])
        return cls(
            colours=colours(sizes),
            lines={count: STYLES[i % len(STYLES)] for i, count in enumerate(gpus)},
            markers={name: MARKERS[i % len(MARKERS)] for i, name in enumerate(variants)},
            trainers={name: STYLES[i % len(STYLES)] for i, name in enumerate(trainers)},
            sizes=sizes,
        )

    def width(self, gpus: int) -> float:
        """Return the width of a line, points: where losses coincide, those of fewer GPUs, drawn
        first, are still to be seen beside the others."""
        return max(1.2, 3.0 - 0.9 * list(self.lines).index(gpus))


def colours(sizes: Collection[Size]) -> dict[Size, Any]:
    """Return the colour of each model size, given in ascending order."""
    if len(sizes) <= len(PALETTE):
        return dict(zip(sizes, PALETTE, strict=False))
    # Too many to tell apart by hue: dark to light by size.
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(sizes)))
    return dict(zip(sizes, shades, strict=True))


def plot_loss_curves(grid: Grid, runs: Iterable[tuple[Cell, Run]], folder: Path) -> list[Path]:
    """Draw loss against tokens and against wall-clock time; return the files written.

    `runs` come from `study.measure.logs`. Writes loss_vs_tokens and loss_vs_time to `folder`, each
    in all forms.
    """
    style = Style.of(grid)
    curves = [curve for cell, run in runs if (curve := Curve.of(cell, run)).has_loss]
    paths = []
    for name, label in (("tokens", "Tokens"), ("time", "Wall-clock time (s)")):
        draw = partial(_draw_losses, style, curves, label, name)
        paths += write_figure(folder / f"loss_vs_{name}", draw)
    return paths


def plot_scaling(grid: Grid, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw throughput and scaling efficiency against GPU count; return the files written.

    `table` is a throughput table. Writes `SCALING_FIGURES` to `folder`, each in all forms.
    """
    style = Style.of(grid)
    paths = []
    for name, drawn in SCALING_FIGURES.items():
        known = table[table[drawn.column].notna()]
        if known.empty:
            draw = partial(empty_figure, drawn.empty_message)
        else:
            draw = partial(_draw_scaling, grid, style, known, drawn)
        paths += write_figure(folder / name, draw)
    return paths


def _draw_losses(style: Style, curves: list[Curve], label: str, axis: str, sheet: Sheet) -> Figure:
    by_gpus = _split_by_gpus(curves)
    panels = _loss_panels(curves, by_gpus)
    if not panels:
        return empty_figure("No run has recorded a loss yet.", sheet)
    shown = _choose_panels(panels)
    curves = [curve for title in shown for curve in panels[title]]
    # Clusters differ too much in speed for one scale: the faster one's curves would be vertical.
    share_x = len({curve.cell.cluster for curve in curves}) == 1
    figure, axes = _make_panels(sheet, len(shown), "Loss (nats per token)", label, share_x)
    as_bands = max(_count_lines(panels[title]) for title in shown) > MOST_LINES
    present = {curve.cell.model for curve in curves}
    models = [name for name in style.sizes if name in present]
    drawn = evenly(models, MOST_LINES) if as_bands else models
    for ax, title in zip(axes, shown, strict=True):
        if as_bands:
            _draw_bands(ax, style, panels[title], drawn, axis)
        else:
            for alike in _by_seed(panels[title]):
                # If the title has the GPU count, dashes would only blur crowded lines.
                line = "-" if by_gpus else style.lines[alike[0].cell.gpus]
                width = 1.4 if by_gpus else style.width(alike[0].cell.gpus)
                _draw_loss(ax, style, alike, axis, line, width)
        ax.set_title(title)
        ax.set_xscale("log")
    for ax in axes:
        label_log_axis(ax.xaxis, most=5)
    extra = _explain_losses(curves, as_bands)
    if len(shown) < len(panels):
        extra.append(_sample(f"{len(shown)} of {len(panels)} panels", linestyle=""))
    if len(drawn) < len(models):
        extra.append(_sample(f"{len(drawn)} of {len(models)} models", linestyle=""))
    cells = [curve.cell for curve in curves if curve.cell.model in drawn]
    sections = _sections(style, cells, extra, lines=True, counts=not by_gpus, models_only=as_bands)
    _add_legend(figure, sheet, sections)
    return figure


def _explain_losses(curves: list[Curve], as_bands: bool) -> list[Line2D]:
    """Return the legend's lines for what is drawn besides the runs' lines."""
    if as_bands:
        range_ = _sample("range of all its runs", linewidth=6, alpha=0.25)
        return [_sample("median of a model's runs", linewidth=1.8), range_]
    extra = []
    if any(len(alike) > 1 for alike in _by_seed(curves)):
        extra.append(_sample("range of the seeds", linewidth=6, alpha=0.25))
    if any(curve.evaluations for curve in curves):
        extra.append(_sample("validation loss", marker="o", mfc="white", ms=4, mew=1.1))
    if any(curve.diverged for curve in curves):
        extra.append(_sample("diverged", marker="x", ms=6, mew=1.6))
    return extra


def _by_seed(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Return the curves of each cell, those of fewer GPUs first; seeds and repeats together."""
    alike: dict[tuple[Any, ...], list[Curve]] = {}
    for curve in sorted(curves, key=lambda curve: curve.cell.gpus):
        cell = curve.cell
        alike.setdefault((cell.cluster, cell.model, cell.gpus, cell.variant), []).append(curve)
    return list(alike.values())


def _count_lines(curves: list[Curve]) -> int:
    """Return the number of lines, not counting seeds unless there are many."""
    cells = [curve.cell for curve in curves]
    lines = {(cell.cluster, cell.model, cell.gpus, cell.variant) for cell in cells}
    return max(len(lines), len(cells) // 4)


def _split_by_gpus(curves: list[Curve]) -> bool:
    """Return whether a cluster has too many lines for one panel, not counting seeds."""
    cells = [curve.cell for curve in curves]
    lines = {(cell.cluster, cell.model, cell.gpus, cell.variant) for cell in cells}
    return max(Counter(cluster for cluster, *_ in lines).values(), default=0) > MOST_LINES


def _loss_panels(curves: list[Curve], by_gpus: bool) -> dict[str, list[Curve]]:
    """Return title -> curves: one panel for each cluster, or for each of its GPU counts."""
    panels: dict[str, list[Curve]] = {}
    for curve in sorted(curves, key=lambda curve: curve.cell.gpus if by_gpus else 0):
        cell = curve.cell
        count = f"{cell.gpus}x " if by_gpus else ""
        title = f"{cell.cluster} ({count}{cell.cluster_config.gpu_name})"
        panels.setdefault(title, []).append(curve)
    return panels


def _choose_panels(panels: dict[str, list[Curve]]) -> list[str]:
    """Return the titles of the panels to show: all, or `MOST_PANELS` evenly spaced ones."""
    return evenly(list(panels), MOST_PANELS)


def _draw_loss(
    ax: Axes, style: Style, alike: Sequence[Curve], axis: str, line: Any, width: float
) -> None:
    """Draw the run of a cell; of several seeds, the median and the range."""
    cell = alike[0].cell
    colour = style.colours[cell.model]
    points = getattr(alike[0], axis)
    x, y = points.x, points.y
    if len(alike) > 1:
        drawn = band([getattr(curve, axis) for curve in alike])
        x, y = drawn.x, drawn.middle
        ax.fill_between(x, drawn.low, drawn.high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(
        x,
        y,
        color=colour,
        linestyle=line,
        linewidth=width,
        alpha=0.55 if width > 2 else 1,
        marker="" if cell.variant == "base" else style.markers[cell.variant],
        markevery=0.12,  # of the diagonal: evenly on a log axis too
        markersize=3.5,
    )
    for curve in alike:
        _mark(ax, curve, axis, colour)


def _mark(ax: Axes, curve: Curve, axis: str, colour: Any) -> None:
    """Mark the validation losses of a run, and where it diverged."""
    points = getattr(curve, axis)
    if curve.diverged:
        last = np.flatnonzero(np.isfinite(points.y))[-1]
        ax.plot(points.x[last], points.y[last], "x", color=colour, ms=6, mew=1.6)
    if curve.evaluations:
        tokens, times, loss = zip(*curve.evaluations, strict=True)
        x = tokens if axis == "tokens" else times
        ax.plot(x, loss, "o", color=colour, mfc="white", ms=4, mew=1.1, zorder=3)


def _draw_bands(
    ax: Axes, style: Style, curves: list[Curve], models: Collection[str], axis: str
) -> None:
    """Draw a band for each of some models."""
    for model in models:
        alike = [getattr(curve, axis) for curve in curves if curve.cell.model == model]
        if not alike:
            continue
        drawn, colour = band(alike), style.colours[model]
        ax.fill_between(drawn.x, drawn.low, drawn.high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(drawn.x, drawn.middle, color=colour, linewidth=1.6)


def _draw_scaling(
    grid: Grid, style: Style, table: pd.DataFrame, drawn: ScalingFigure, sheet: Sheet
) -> Figure:
    """Draw a column of the throughput table against GPU count, a panel for each cluster.

    Every row of `table` has a value in the column.
    """
    cells = {tuple(cell.labels.values()): cell for cell in grid}
    clusters = list(table["cluster"].unique())
    figure, axes = _make_panels(sheet, len(clusters), drawn.label, "GPU count", False)
    shown, several = [], False
    for ax, cluster in zip(axes, clusters, strict=True):
        here = table[table["cluster"] == cluster]
        counts = np.array(sorted(here["gpus"].unique()), dtype=float)
        for _, group in here.groupby(["model", "variant"], sort=False):
            cell = cells[tuple(group.iloc[0][axis] for axis in AXES)]
            shown.append(cell)
            seeds = group.groupby("gpus")[drawn.column].agg(["median", "min", "max", "size"])
            several |= bool((seeds["size"] > 1).any())
            _draw_series(ax, style, cell, seeds)
            if drawn.reference == "linear scaling" and cell.variant == "base" and len(counts) > 1:
                per_gpu = seeds["median"].iloc[0] / seeds.index[0]
                ax.plot(counts, per_gpu * counts, ":", color=IDEAL, linewidth=1, zorder=1)
        if drawn.reference == "one":
            ax.axhline(1, color=IDEAL, linestyle=":", linewidth=1, zorder=1)
        _gpu_ticks(ax, counts)
        ax.set_title(f"{cluster} ({cell.cluster_config.gpu_name})")
    _scale_values(axes[0], drawn.scale, table[drawn.column])
    extra = [_sample("range of the seeds", marker="|", ms=8, mew=1.2)] if several else []
    if drawn.reference == "one" or any(len(ax.get_xticks()) > 1 for ax in axes):
        extra += _reference_samples(drawn)
    _add_legend(figure, sheet, _sections(style, shown, extra=extra, lines=False))
    return figure


def _reference_samples(drawn: ScalingFigure) -> list[Line2D]:
    if drawn.reference is None:
        return []
    return [_sample("linear scaling", color=IDEAL, linestyle=":", linewidth=1)]


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


def _gpu_ticks(ax: Axes, counts: np.ndarray) -> None:
    """Label the axis with the measured GPU counts only."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(list(counts)))
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)


def _make_panels(
    sheet: Sheet, count: int, y_label: str, x_label: str, share_x: bool
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels that share their axes."""
    columns = min(sheet.columns, 2 if count == 4 else count)
    rows = -(-count // columns)
    height = 3.6 if count == 1 and not sheet.is_narrow else 2.4 * rows + 0.3
    figure = Figure(figsize=(sheet.width, height))
    grid = figure.subplots(rows, columns, sharex=share_x, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.tick_params(labelbottom=True)
    if sheet.is_narrow:  # the legend is between the panels and the figure's edge
        for ax in axes[:count]:
            ax.set_ylabel(y_label)
        axes[count - 1].set_xlabel(x_label)
    else:
        figure.supylabel(y_label)
        figure.supxlabel(x_label)
    return figure, axes[:count]


def _sections(
    style: Style,
    cells: Sequence[Cell],
    extra: Sequence[Line2D],
    lines: bool,
    counts: bool = False,
    models_only: bool = False,
) -> dict[str, list[Line2D]]:
    """Return title -> members of the legend: a section each for colour, line style and marker.

    `lines`: base is a line without markers. `counts`: the line style is the GPU count.
    `models_only`: there is nothing but colour.
    """
    models = {cell.model for cell in cells}
    sections = {
        "Model (parameters)": [
            _sample(f"{name} ({format_count(size, 3)})", color=style.colours[name], linewidth=2.5)
            for name, size in style.sizes.items()
            if name in models
        ]
    }
    if counts:
        sections["GPU count"] = [
            _sample(str(count), linestyle=look, linewidth=style.width(count))
            for count, look in style.lines.items()
            if count in {cell.gpus for cell in cells}
        ]
    trainers = {cell.trainer for cell in cells}
    if not lines and len(trainers) > 1:
        sections["Trainer"] = [
            _sample(name, linestyle=look, linewidth=1.8)
            for name, look in style.trainers.items()
            if name in trainers
        ]
    used = {"base"} if models_only else {cell.variant for cell in cells}
    variants = [name for name in style.markers if name in used]
    if not models_only and variants != ["base"]:
        sections["Variant" if len(trainers) == 1 else "Trainer and variant"] = [
            _sample(
                name,
                marker="" if lines and name == "base" else style.markers[name],
                linestyle="-" if lines else "",
                mfc=None if lines or name == "base" else "none",
            )
            for name in variants
        ]
    sections["Also"] = list(extra)
    return {title: members for title, members in sections.items() if members}


def _add_legend(figure: Figure, sheet: Sheet, sections: dict[str, list[Line2D]]) -> None:
    """Add one legend: beside the panels, or in two columns below them."""
    columns: list[list[Line2D]] = [[], []] if sheet.is_narrow else [[]]
    for title, members in sections.items():
        column = min(columns, key=len)  # a section is not divided
        column += [*([_blank()] if column else []), _sample(title, linestyle=""), *members]
    columns = [column for column in columns if column]
    lines = max(map(len, columns))
    handles = [handle for column in columns for handle in [*column, *[_blank()] * lines][:lines]]
    width, height = figure.get_size_inches()
    needed = LEGEND_LINE * (lines + 1)
    figure.set_size_inches(width, height + needed if sheet.is_narrow else max(height, needed))
    where: Any = "outside lower center" if sheet.is_narrow else "outside right upper"
    legend = figure.legend(handles=handles, loc=where, ncols=len(columns))
    for text in legend.get_texts():
        if text.get_text() in sections:
            text.set_fontweight("bold")


def _blank() -> Line2D:
    return _sample("", linestyle="")


def _sample(label: str, **look: Any) -> Line2D:
    """Return a line for the legend; with a marker and no line style, the marker alone."""
    look.setdefault("linestyle", "" if "marker" in look else "-")
    return Line2D([], [], **{"color": "#444444", "label": label, **look})
