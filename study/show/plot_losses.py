"""Loss curves: against steps, tokens, wall-clock time and FLOPs. Seeds are one line with a band."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.grid import Grid
from study.sequences import evenly, group_by
from study.show.curves import ALONG, Curve, band
from study.show.legend import add_legend, legend_sections, sample
from study.show.sheets import (
    COUNTS,
    SCIENTIFIC,
    Sheet,
    empty_figure,
    label_log_axis,
    make_panels,
    write_figure,
)
from study.show.style import Style

MOST_LINES = 8
"""Most lines in one panel of loss curves; with more, each GPU count gets its own panel, and if that
is not enough, the runs of each model in a panel are drawn as one band."""

MOST_PANELS = 9
"""Most panels of loss curves; of more GPU counts, evenly spaced ones are shown."""


def plot_loss_curves(grid: Grid, runs: Iterable[Curve], folder: Path) -> list[Path]:
    """Draw loss against each of `ALONG`; return the files written.

    Writes loss_vs_steps, loss_vs_tokens, loss_vs_time and loss_vs_flops to `folder`, each in all
    forms.
    """
    style = Style.of(grid)
    curves = [curve for curve in runs if curve.has_loss]
    paths = []
    for axis in ALONG:
        draw = partial(_draw_losses, style, curves, axis)
        paths += write_figure(folder / f"loss_vs_{axis}", draw)
    return paths


def _draw_losses(style: Style, curves: list[Curve], axis: str, sheet: Sheet) -> Figure:
    by_gpus = _split_by_gpus(curves)
    panels = _loss_panels(curves, by_gpus)
    if not panels:
        return empty_figure("No run has recorded a loss yet.", sheet)
    shown = evenly(list(panels), MOST_PANELS)
    curves = [curve for title in shown for curve in panels[title]]
    # Clusters differ too much in speed for one scale: the faster one's curves would be vertical.
    share_x = len({curve.cell.cluster for curve in curves}) == 1
    figure, axes = make_panels(sheet, len(shown), "Loss (nats per token)", ALONG[axis], share_x)
    as_bands = max(_count_lines(panels[title]) for title in shown) > MOST_LINES
    present = {curve.cell.model for curve in curves}
    models = [name for name in style.sizes if name in present]
    drawn = evenly(models, MOST_LINES) if as_bands else models
    limits = _limits(curves)
    for ax, title in zip(axes, shown, strict=True):
        if limits is not None:
            ax.set_ylim(*limits)
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
        label_log_axis(ax.xaxis, SCIENTIFIC if axis == "flops" else COUNTS, most=5)
    extra = _explain_losses(curves, as_bands)
    if len(shown) < len(panels):
        extra.append(sample(f"{len(shown)} of {len(panels)} panels", linestyle=""))
    if len(drawn) < len(models):
        extra.append(sample(f"{len(drawn)} of {len(models)} models", linestyle=""))
    cells = [curve.cell for curve in curves if curve.cell.model in drawn]
    sections = legend_sections(
        style, cells, extra, lines=True, counts=not by_gpus, models_only=as_bands
    )
    add_legend(figure, sheet, sections)
    return figure


def _limits(curves: Iterable[Curve]) -> tuple[float, float] | None:
    """Return the limits of the axis of losses: those of runs that diverged, which may be a thousand
    times as high, leave the panel at its top. None if none diverged, or all did."""
    lows, highs = [], []
    for curve in curves:
        losses = np.concatenate([curve.training["tokens"].y, curve.validation["tokens"].y])
        losses = losses[np.isfinite(losses)]
        if len(losses):
            lows.append(losses.min())
            if not curve.diverged:
                highs.append(losses.max())
    if not highs or len(highs) == len(lows):
        return None
    low, high = min(lows), max(highs)
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def _explain_losses(curves: list[Curve], as_bands: bool) -> list[Line2D]:
    """Return the legend's lines for what is drawn besides the runs' lines."""
    if as_bands:
        range_ = sample("range of all its runs", linewidth=6, alpha=0.25)
        return [sample("median of a model's runs", linewidth=1.8), range_]
    extra = []
    if any(len(alike) > 1 for alike in _by_seed(curves)):
        extra.append(sample("range of the seeds", linewidth=6, alpha=0.25))
    if any(len(curve.validation["steps"].x) for curve in curves):
        extra.append(sample("validation loss", marker="o", mfc="white", ms=4, mew=1.1))
    if any(curve.diverged for curve in curves):
        extra.append(sample("diverged", marker="x", ms=6, mew=1.6))
    return extra


def _by_seed(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Return the curves of each cell, those of fewer GPUs first; seeds and repeats together."""
    ordered = sorted(curves, key=lambda curve: curve.cell.gpus)
    return list(group_by(ordered, lambda curve: curve.cell.configuration).values())


def _count_lines(curves: list[Curve]) -> int:
    """Return the number of lines, not counting seeds unless there are many."""
    return max(len({curve.cell.configuration for curve in curves}), len(curves) // 4)


def _split_by_gpus(curves: list[Curve]) -> bool:
    """Return whether a cluster has too many lines for one panel, not counting seeds."""
    clusters = Counter(cluster for cluster, *_ in {curve.cell.configuration for curve in curves})
    return max(clusters.values(), default=0) > MOST_LINES


def _loss_panels(curves: list[Curve], by_gpus: bool) -> dict[str, list[Curve]]:
    """Return title -> curves: one panel for each cluster, or for each of its GPU counts."""

    def title(curve: Curve) -> str:
        cell, count = curve.cell, f"{curve.cell.gpus}x " if by_gpus else ""
        return f"{cell.cluster} ({count}{cell.cluster_config.gpu_name})"

    return group_by(sorted(curves, key=lambda it: it.cell.gpus if by_gpus else 0), title)


def _draw_loss(
    ax: Axes, style: Style, alike: Sequence[Curve], axis: str, line: Any, width: float
) -> None:
    """Draw the run of a cell; of several seeds, the median and the range."""
    cell = alike[0].cell
    colour = style.colours[cell.model]
    points = alike[0].training[axis]
    x, y = points.x, points.y
    if len(alike) > 1:
        drawn = band([curve.training[axis] for curve in alike])
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
    points, evaluated = curve.training[axis], curve.validation[axis]
    if curve.diverged:
        last = np.flatnonzero(np.isfinite(points.y))[-1]
        y = min(points.y[last], ax.get_ylim()[1])
        ax.plot(points.x[last], y, "x", color=colour, ms=6, mew=1.6, clip_on=False)
    if len(evaluated.x):
        ax.plot(evaluated.x, evaluated.y, "o", color=colour, mfc="white", ms=4, mew=1.1, zorder=3)


def _draw_bands(
    ax: Axes, style: Style, curves: list[Curve], models: Collection[str], axis: str
) -> None:
    """Draw a band for each of some models."""
    for model in models:
        alike = [curve.training[axis] for curve in curves if curve.cell.model == model]
        if not alike:
            continue
        drawn, colour = band(alike), style.colours[model]
        ax.fill_between(drawn.x, drawn.low, drawn.high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(drawn.x, drawn.middle, color=colour, linewidth=1.6)
