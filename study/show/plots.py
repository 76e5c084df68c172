"""The figures: loss curves, throughput and scaling efficiency, each as SVG and PNG.

A figure draws finished tables and fits nothing. Colour shows the model, by size; line style the GPU
count, or in figures over GPU counts the trainer; marker the variant and trainer. Equal input gives
equal bytes.
"""

import io
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullLocator, PercentFormatter

from study.estimate.time_table import format_count
from study.files import write_file
from study.grid import Cell, Grid
from study.measure.logs import Run
from study.points import AXES
from study.show.curves import Curve, band
from study.show.selection import evenly
from study.trainers import DEFAULT_TRAINER

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Okabe and Ito's colour-blind-safe palette without yellow, which is too pale on white."""

STYLES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (10, 3)), (0, (1, 3)))
"""Line styles of the GPU counts, in ascending order, or of the trainers."""

MARKERS = "osD^vP*X"
"""Markers of the variants; the first is for `base`."""

MOST_LINES = 8
"""Most lines in one panel of loss curves; with more, each GPU count gets its own panel, and if that
is not enough, the runs of each model in a panel are drawn as one band."""

MOST_PANELS = 9
"""Most panels of loss curves; of more GPU counts, evenly spaced ones are shown."""

RC_PARAMS: Any = {
    "svg.hashsalt": "study",  # the same ids in every drawing
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}

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

LEGEND_LINE = 0.215
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
    thin: frozenset[str]
    """Names of the cells that repeat another one with a further seed."""

    @classmethod
    def of(cls, grid: Grid) -> "Style":
        """Return the style of a study's cells."""
        by_size = sorted(((cell.model, cell.params) for cell in grid), key=lambda item: item[1])
        sizes = dict(by_size)
        gpus = sorted({cell.gpus for cell in grid})
        variants = dict.fromkeys(["base", *(cell.variant for cell in grid)])
        trainers = dict.fromkeys([DEFAULT_TRAINER, *(cell.trainer for cell in grid)])
        first = {cell.name for cell in grid.configurations}
        return cls(
            colours=colours(sizes),
            lines={count: STYLES[i % len(STYLES)] for i, count in enumerate(gpus)},
            markers={name: MARKERS[i % len(MARKERS)] for i, name in enumerate(variants)},
            trainers={name: STYLES[i % len(STYLES)] for i, name in enumerate(trainers)},
            sizes=sizes,
            thin=frozenset(cell.name for cell in grid if cell.name not in first),
        )

    def width(self, cell: Cell) -> float:
        """Return the line width of a cell, points."""
        return 0.8 if cell.name in self.thin else 1.8


def colours(sizes: Collection[Size]) -> dict[Size, Any]:
    """Return the colour of each model size, given in ascending order."""
    if len(sizes) <= len(OKABE_ITO):
        return dict(zip(sizes, OKABE_ITO, strict=False))
    # Too many to tell apart by hue: dark to light by size.
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(sizes)))
    return dict(zip(sizes, shades, strict=True))


def plot_loss_curves(grid: Grid, runs: Iterable[tuple[Cell, Run]], folder: Path) -> list[Path]:
    """Draw loss against tokens and against wall-clock time; return the files written.

    `runs` come from `study.measure.logs`. Writes loss_vs_tokens and loss_vs_time to `folder`, each
    as .svg and .png.
    """
    style = Style.of(grid)
    curves = [curve for cell, run in runs if (curve := Curve.of(cell, run)).has_loss]
    paths = []
    for name, label in (("tokens", "Tokens"), ("time", "Wall-clock time (s)")):
        with mpl.rc_context(RC_PARAMS):
            figure = _draw_losses(style, curves, label, name)
            paths += save(figure, folder / f"loss_vs_{name}")
    return paths


def plot_scaling(grid: Grid, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw throughput and scaling efficiency against GPU count; return the files written.

    `table` is a throughput table. Writes `SCALING_FIGURES` to `folder`, each as .svg and .png.
    """
    style = Style.of(grid)
    paths = []
    with mpl.rc_context(RC_PARAMS):
        for name, scaling_figure in SCALING_FIGURES.items():
            known = table[table[scaling_figure.column].notna()]
            if known.empty:
                figure = empty_figure(scaling_figure.empty_message)
            else:
                figure = _draw_scaling(grid, style, known, scaling_figure)
            paths += save(figure, folder / name)
    return paths


def _draw_losses(style: Style, curves: list[Curve], label: str, axis: str) -> Figure:
    by_gpus = _split_by_gpus(curves)
    panels = _loss_panels(curves, by_gpus)
    if not panels:
        return empty_figure("No run has recorded a loss yet.")
    shown = _choose_panels(panels)
    curves = [curve for title in shown for curve in panels[title]]
    # Clusters differ too much in speed for one scale: the faster one's curves would be vertical.
    share_x = len({curve.cell.cluster for curve in curves}) == 1
    figure, axes = _make_panels(len(shown), "Loss (nats per token)", label, share_x)
    as_bands = max(_count_lines(panels[title]) for title in shown) > MOST_LINES
    present = {curve.cell.model for curve in curves}
    models = [name for name in style.sizes if name in present]
    drawn = evenly(models, MOST_LINES) if as_bands else models
    for ax, title in zip(axes, shown, strict=True):
        if as_bands:
            _draw_bands(ax, style, panels[title], drawn, axis)
        else:
            for curve in panels[title]:
                # If the title has the GPU count, dashes would only blur crowded lines.
                line = "-" if by_gpus else style.lines[curve.cell.gpus]
                _draw_loss(ax, style, curve, axis, line)
        ax.set_title(title)
        ax.set_xscale("log")
    for ax in axes:
        _log_ticks(ax.xaxis)
    extra = _explain_losses(curves, as_bands)
    if len(shown) < len(panels):
        extra.append(_sample(f"{len(shown)} of {len(panels)} panels", linestyle=""))
    if len(drawn) < len(models):
        extra.append(_sample(f"{len(drawn)} of {len(models)} models", linestyle=""))
    cells = [curve.cell for curve in curves if curve.cell.model in drawn]
    _add_legend(figure, style, cells, extra, lines=True, counts=not by_gpus, models_only=as_bands)
    return figure


def _explain_losses(curves: list[Curve], as_bands: bool) -> list[Line2D]:
    """Return the legend's lines for what is drawn besides the runs' lines."""
    if as_bands:
        range_ = _sample("range of all its runs", linewidth=6, alpha=0.25)
        return [_sample("median of a model's runs", linewidth=1.8), range_]
    extra = []
    if any(curve.evaluations for curve in curves):
        extra.append(_sample("validation loss", marker="o", mfc="white", mew=1.4))
    if any(curve.diverged for curve in curves):
        extra.append(_sample("diverged", marker="x", ms=8, mew=2))
    return extra


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


def _draw_loss(ax: Axes, style: Style, curve: Curve, axis: str, line: Any) -> None:
    cell, points = curve.cell, getattr(curve, axis)
    colour = style.colours[cell.model]
    ax.plot(
        points.x,
        points.y,
        color=colour,
        linestyle=line,
        linewidth=style.width(cell),
        marker="" if cell.variant == "base" else style.markers[cell.variant],
        markevery=0.12,  # of the diagonal: evenly on a log axis too
        markersize=4.5,
    )
    if curve.diverged:
        last = np.flatnonzero(np.isfinite(points.y))[-1]
        ax.plot(points.x[last], points.y[last], "x", color=colour, ms=8, mew=2)
    if curve.evaluations:
        tokens, times, loss = zip(*curve.evaluations, strict=True)
        x = tokens if axis == "tokens" else times
        size = 3 + style.width(cell)
        ax.plot(x, loss, "o", color=colour, mfc="white", ms=size, mew=1.2, zorder=3)


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


def _draw_scaling(grid: Grid, style: Style, table: pd.DataFrame, drawn: ScalingFigure) -> Figure:
    """Draw a column of the throughput table against GPU count, a panel for each cluster.

    Every row of `table` has a value in the column.
    """
    cells = {tuple(cell.labels.values()): cell for cell in grid}
    clusters = list(table["cluster"].unique())
    column = drawn.column
    figure, axes = _make_panels(len(clusters), drawn.label, "GPU count", False)
    shown = []
    for ax, cluster in zip(axes, clusters, strict=True):
        here = table[table["cluster"] == cluster]
        counts = np.array(sorted(here["gpus"].unique()), dtype=float)
        for _, group in here.groupby(["model", "variant", "seed"], sort=False):
            series = group.sort_values("gpus")
            cell = cells[tuple(series.iloc[0][axis] for axis in AXES)]
            shown.append(cell)
            _draw_series(ax, style, cell, series, column)
            if drawn.reference == "linear scaling" and cell.variant == "base" and len(counts) > 1:
                per_gpu = series[column].iloc[0] / series["gpus"].iloc[0]
                ax.plot(counts, per_gpu * counts, ":", color=IDEAL, linewidth=1.2, zorder=1)
        if drawn.reference == "one":
            ax.axhline(1, color=IDEAL, linestyle=":", linewidth=1.4, zorder=1)
        _gpu_ticks(ax, counts)
        ax.set_title(f"{cluster} ({cell.cluster_config.gpu_name})")
    _scale_values(axes[0], drawn.scale, table[column])
    extra = []
    if drawn.reference is not None:
        extra.append(_sample("linear scaling", color=IDEAL, linestyle=":", linewidth=1.4))
    _add_legend(figure, style, shown, extra=extra, lines=False)
    return figure


def _scale_values(ax: Axes, scale: str, values: pd.Series) -> None:
    """Scale the vertical axis, which all panels share."""
    if scale == "log":
        ax.set_yscale("log")
        _log_ticks(ax.yaxis)
    elif scale == "percent":
        # Not from 0, which would hide differences; not tight, which would magnify noise.
        low = max(0.0, min(0.8, np.floor(10 * values.min() - 0.2) / 10))
        ax.set_ylim(low, max(1.05, values.max() + 0.03))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        ax.set_ylim(0, 1.05 * values.max() or None)


def _draw_series(ax: Axes, style: Style, cell: Cell, series: pd.DataFrame, column: str) -> None:
    hollow = cell.variant != "base"
    ax.plot(
        series["gpus"].to_numpy(dtype=float),
        series[column].to_numpy(dtype=float),
        color=style.colours[cell.model],
        marker=style.markers[cell.variant],
        markerfacecolor="white" if hollow else style.colours[cell.model],
        markersize=4 if cell.name in style.thin else 6.5,
        linestyle=style.trainers[cell.trainer],
        linewidth=style.width(cell),
    )


def _gpu_ticks(ax: Axes, counts: np.ndarray) -> None:
    """Label the axis with the measured GPU counts only."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(list(counts)))
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)


def _log_ticks(axis: Axis) -> None:
    """Label a log axis with 1, 2 and 5 if it is short, with decades if it is long."""
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_locator(NullLocator())


def _make_panels(
    count: int, y_label: str, x_label: str, share_x: bool
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels that share their axes, and space for a legend."""
    columns = count if count <= 3 else 2 if count == 4 else 3
    rows = -(-count // columns)
    size = (6.4 + 2.0, 4.6) if count == 1 else (3.5 * columns + 2.0, 3.1 * rows + 0.4)
    figure = Figure(figsize=size)
    grid = figure.subplots(rows, columns, sharex=share_x, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.tick_params(labelbottom=True)
    figure.supylabel(y_label, fontsize=10.5)
    figure.supxlabel(x_label, fontsize=10.5)
    return figure, axes[:count]


def _add_legend(
    figure: Figure,
    style: Style,
    cells: Sequence[Cell],
    extra: Sequence[Line2D],
    lines: bool,
    counts: bool = False,
    models_only: bool = False,
) -> None:
    """Add one legend beside the panels, with a section each for colour, line style and marker.

    `lines`: base is a line without markers. `counts`: the line style is the GPU count.
    `models_only`: there is nothing but colour.
    """
    models = {cell.model for cell in cells}
    sections = {
        "Model (parameters)": [
            _sample(f"{name} ({format_count(size, 3)})", color=style.colours[name], linewidth=3)
            for name, size in style.sizes.items()
            if name in models
        ]
    }
    if counts:
        sections["GPU count"] = [
            _sample(str(count), linestyle=look, linewidth=1.8)
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
                mfc=None if lines or name == "base" else "white",
            )
            for name in variants
        ]
    if not models_only and any(cell.name in style.thin for cell in cells):
        thin = _sample(
            "further seed", linewidth=0.8, linestyle="-", marker="" if lines else "o", ms=4
        )
        extra = [thin, *extra]
    if extra:
        sections["Also"] = list(extra)
    handles: list[Line2D] = []
    for title, members in sections.items():
        gap = [_sample("", linestyle="")] if handles else []
        handles += [*gap, _sample(title, linestyle=""), *members]
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, max(height, LEGEND_LINE * (len(handles) + 1)))
    legend = figure.legend(handles=handles, loc="outside right upper", handlelength=2.8)
    for text in legend.get_texts():
        if text.get_text() in sections:
            text.set_fontweight("bold")


def _sample(label: str, **look: Any) -> Line2D:
    """Return a line for the legend; with a marker and no line style, the marker alone."""
    look.setdefault("linestyle", "" if "marker" in look else "-")
    return Line2D([], [], **{"color": "#444444", "label": label, **look})


def empty_figure(message: str) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = Figure(figsize=(6.4, 2.4))
    figure.text(0.5, 0.5, message, ha="center", va="center", fontsize=12, color="#666666")
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as SVG and PNG, without matplotlib's date and version in them."""
    FigureCanvasAgg(figure)
    paths = []
    for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix, dpi=150, metadata=metadata)
        paths.append(path.with_name(f"{path.name}.{suffix}"))
        write_file(paths[-1], content.getvalue())
    return paths
