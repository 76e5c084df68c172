"""The figures of the analyses. They draw finished fits."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.analysis.ablations import Difference
from study.analysis.catalogue import Results
from study.analysis.curve import Curve
from study.analysis.isoflop import IsoFlopFit, PowerLaw
from study.analysis.learning_rate import RateCurve
from study.analysis.tokens_per_parameter import LengthRow
from study.formats import format_count
from study.sequences import evenly
from study.show.legend import fill_below, sample
from study.show.sheets import Sheet, empty_figure, format_tick, label_log_axis, write_figure
from study.show.style import IDEAL, colours

MOST_SERIES = 6
"""Most series in a figure; of more, evenly spaced ones are drawn, and the title says so."""

MOST_CHANGES = 40
"""Most changes of one series; with more, those with the largest differences are drawn."""

IN_PANEL = 36
"""Most letters of a name in a legend within a panel of half the width of a page."""

IN_COLUMN = 18
"""Most letters of a name in a legend of two columns beside a narrow panel's labels."""

NO_LOSS = "No run has a loss yet."


def plot_analysis(name: str, results: Results, folder: Path) -> list[Path]:
    """Draw an analysis to `folder`, in all forms; return the files written."""
    return write_figure(folder / name, partial(DRAW[name], getattr(results, name)))


def _panels(sheet: Sheet, count: int, columns: int) -> tuple[Figure, list[Any]]:
    """Return a figure with `columns` panels for each series, side by side if there is room."""
    if sheet.is_narrow:
        figure = Figure(figsize=(sheet.width, 2.6 * count * columns))
        panels = figure.subplots(count * columns, 1, squeeze=False)
        return figure, list(panels.reshape(count, columns))
    figure = Figure(figsize=(sheet.width, (3.0 if columns < 3 else 2.6) * count))
    return figure, list(figure.subplots(count, columns, squeeze=False))


def _title(label: str, default: str, shown: int, total: int) -> str:
    part = f" ({shown} of {total} series)" if shown < total else ""
    return (default if label == "base" else label) + part


def _draw_learning_rates(series: Sequence[Sequence[RateCurve]], sheet: Sheet) -> Figure:
    known = [curves for curves in series if any(curve.losses for curve in curves)]
    if not known:
        return empty_figure(NO_LOSS, sheet)
    shown = evenly(known, MOST_SERIES)
    figure, rows = _panels(sheet, len(shown), 2)
    for (left, right), curves in zip(rows, shown, strict=True):
        colour_of = colours([curve.row.model for curve in curves])
        sizes = [f"{curve.row.model} ({format_count(curve.row.params)})" for curve in curves]
        labels = sheet.shorten(sizes, most=IN_PANEL)
        for curve, label in zip(curves, labels, strict=True):
            _draw_rates(left, curve, colour_of[curve.row.model], label)
        _label_log_x(left, [rate for curve in curves for rate in curve.rates], "Learning rate")
        left.set_ylabel(f"{curves[0].row.loss_kind.capitalize()} (nats per token)")
        left.set_title(_title(curves[0].row.variant, "Loss and curve", len(shown), len(known)))
        left.legend()
        _draw_best(right, curves, colour_of)
    return figure


def _draw_rates(ax: Axes, curve: RateCurve, colour: Any, label: str) -> None:
    row = curve.row
    ax.plot(curve.rates, curve.losses, "o", color=colour, markersize=4.5, label=label)
    if curve.fitted is not None:
        _draw_fit(ax, curve.fitted, colour)
    if row.best_lr is not None and row.edge is None and row.loss is not None:
        ax.plot(row.best_lr, row.loss, "o", color=colour, mfc="white", ms=7, mew=1.4, zorder=3)


def _draw_fit(ax: Axes, fitted: Curve, colour: Any) -> None:
    x = np.linspace(fitted.low, fitted.high, 80)
    ax.plot(np.exp(x), [fitted(at) for at in x], color=colour, linewidth=1.3)


def _draw_best(ax: Axes, curves: Sequence[RateCurve], colour_of: dict[str, Any]) -> None:
    rows = [curve.row for curve in curves if curve.row.best_lr is not None]
    for row in rows:
        assert row.best_lr is not None
        colour = colour_of[row.model]
        if row.edge is not None:
            # An arrow towards the rates that were not tried.
            marker = "^" if row.edge == "highest" else "v"
            ax.plot(row.params, row.best_lr, marker, color=colour, mfc="white", ms=8, mew=1.4)
        else:
            _with_interval(ax, row.params, row.best_lr, row.low, row.high, colour)
    if not rows:
        _say(ax, "No size has a curve yet.")
        return
    ax.set_title("Minimum, 80% interval;\narrow: at the edge of the grid")
    ax.set(ylabel="Best learning rate", yscale="log")
    _label_log_x(ax, [row.params for row in rows], "Parameters")
    label_log_axis(ax.yaxis, ratio=2)


def _say(ax: Axes, message: str) -> None:
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", color="#666666")
    ax.axis("off")


def _with_interval(
    ax: Axes, x: float, y: float, low: float | None, high: float | None, colour: Any
) -> None:
    if low is not None and high is not None:
        ax.plot([x, x], [low, high], color=colour, linewidth=1.6)
    ax.plot(x, y, "o", color=colour, markersize=5.5)


def _draw_isoflops(series: Sequence[IsoFlopFit], sheet: Sheet) -> Figure:
    known = [fit for fit in series if any(curve.runs for curve in fit.curves)]
    if not known:
        return empty_figure(NO_LOSS, sheet)
    shown = evenly(known, MOST_SERIES)
    figure, rows = _panels(sheet, len(shown), 3)
    for (left, middle, right), fit in zip(rows, shown, strict=True):
        colour_of = colours([curve.row.flops for curve in fit.curves])
        for curve in fit.curves:
            row, colour = curve.row, colour_of[curve.row.flops]
            left.plot(
                [run.params for run in curve.runs], [run.loss for run in curve.runs], "o",
                color=colour, markersize=4.5, label=f"{format_tick(row.flops)} FLOPs",
            )  # fmt: skip
            if curve.fitted is not None:
                _draw_fit(left, curve.fitted, colour)
            if row.params is not None and row.loss is not None:
                left.plot(row.params, row.loss, "o", color=colour, mfc="white", ms=7, mew=1.4)
        first = fit.curves[0].row
        sizes = [run.params for curve in fit.curves for run in curve.runs]
        _label_log_x(left, sizes, "Parameters N")
        left.set_ylabel(f"{first.loss_kind.capitalize()} (nats per token)")
        left.set_title(_title(first.variant, "Loss and curve", len(shown), len(known)))
        left.legend()
        for ax, law, name in (
            (middle, fit.laws[0], "Parameters N"),
            (right, fit.laws[1], "Tokens D"),
        ):
            _draw_optima(ax, fit, law, name, colour_of)
    return figure


def _draw_optima(
    ax: Axes, fit: IsoFlopFit, law: PowerLaw, name: str, colour_of: dict[float, Any]
) -> None:
    """Draw the minima of the budgets against FLOPs, and the power law through them."""
    if not any(curve.row.params for curve in fit.curves):
        _say(ax, "No budget has its minimum\nbetween its sizes.")
        return
    for curve in fit.curves:
        row, colour = curve.row, colour_of[curve.row.flops]
        value, low, high = (getattr(row, law.quantity + end) for end in ("", "_low", "_high"))
        if value is not None:
            _with_interval(ax, row.flops, value, low, high, colour)
        elif law.quantity == "params" and row.edge is not None:
            end, marker = (max, "^") if row.edge == "largest" else (min, "v")
            edge = end(run.params for run in curve.runs)
            ax.plot(row.flops, edge, marker, color=colour, mfc="white", ms=8, mew=1.4)
    budgets = [curve.row.flops for curve in fit.curves]
    title = f"Compute-optimal {name[:-2].lower()}"
    if law.exponent is not None:
        x = np.geomspace(min(budgets), max(budgets), 2)
        ax.plot(x, [law(at) for at in x], "--", color=IDEAL, linewidth=1.3, zorder=1)
        title = f"{name[-1]} ∝ FLOPs$^{{{law.exponent:.2f}}}$"
        if law.low is not None and law.high is not None:
            title += f" ({law.low:.2f} to {law.high:.2f})"
    ax.set(ylabel=name, yscale="log")
    ax.set_title(title)
    _label_log_x(ax, budgets, "Training FLOPs")
    label_log_axis(ax.yaxis, ratio=2)


def _draw_lengths(series: Sequence[Sequence[LengthRow]], sheet: Sheet) -> Figure:
    known = [rows for rows in series if any(row.loss is not None for row in rows)]
    if not known:
        return empty_figure(NO_LOSS, sheet)
    shown = evenly(known, MOST_SERIES)
    figure, panels = _panels(sheet, len(shown), 1)
    for (ax,), rows in zip(panels, shown, strict=True):
        sizes = dict.fromkeys(row.model for row in rows)
        colour_of = colours(sizes)
        params = {row.model: row.params for row in rows}
        names = [f"{model} ({format_count(params[model])})" for model in sizes]
        for model, label in zip(sizes, sheet.shorten(names, IN_PANEL), strict=True):
            here = [row for row in rows if row.model == model and row.loss is not None]
            if not here:
                continue
            ax.errorbar(
                [row.tokens_per_param for row in here], [row.loss for row in here],
                yerr=[row.standard_error or 0.0 for row in here],
                color=colour_of[model], marker="o", markersize=4.5, linewidth=1.4, label=label,
            )  # fmt: skip
        first = rows[0]
        _label_log_x(ax, [row.tokens_per_param for row in rows if row.loss], "Tokens per parameter")
        ax.set_ylabel(f"{first.loss_kind.capitalize()} (nats per token)")
        default = "Loss of each size by length of the run"
        ax.set_title(_title(first.variant, default, len(shown), len(known)))
        ax.legend()
    return figure


def _draw_differences(series: Sequence[Sequence[Difference]], sheet: Sheet) -> Figure:
    known = [rows for rows in series if any(row.difference is not None for row in rows)]
    if not known:
        return empty_figure("No change has a loss to compare with its base yet.", sheet)
    shown = evenly(known, MOST_SERIES)
    changes = [_largest_changes(rows) for rows in shown]
    heights = [1.4 + 0.25 * len(names) for names in changes]
    figure = Figure(figsize=(sheet.width, sum(heights)))
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)
    for (ax,), rows, names in zip(panels, shown, changes, strict=True):
        _draw_changes(ax, rows, names, sheet)
        (base,) = sheet.shorten([rows[0].base])
        # A long name gets a line of its own.
        default = f"Difference to {'the base' if base == 'base' else base}"
        default = default.replace(" to ", " to\n") if len(default) > 30 else default
        ax.set_title(_title(rows[0].variant, default, len(shown), len(known)))
    return figure


def _largest_changes(rows: Sequence[Difference]) -> list[str]:
    sizes: dict[str, float] = {}
    for row in rows:
        if row.difference is not None:
            sizes[row.change] = max(sizes.get(row.change, 0.0), abs(row.difference))
    kept = set(sorted(sizes, key=lambda name: -sizes[name])[:MOST_CHANGES])
    return [name for name in sizes if name in kept]


def _draw_changes(ax: Axes, rows: Sequence[Difference], names: Sequence[str], sheet: Sheet) -> None:
    models = dict.fromkeys(row.model for row in rows)
    colour_of = colours(models)
    offsets = dict(zip(models, np.linspace(-0.22, 0.22, len(models) + 2)[1:-1], strict=True))
    ax.axvline(0, color=IDEAL, linestyle=":", linewidth=1.4, zorder=1)
    for row in rows:
        if row.difference is None or row.change not in names:
            continue
        y, colour = names.index(row.change) + offsets[row.model], colour_of[row.model]
        if row.low is not None and row.high is not None:
            ax.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6)
        filled = "white" if row.exceeds_noise is False else colour
        ax.plot(row.difference, y, "o", color=colour, mfc=filled, ms=6, mew=1.4)
    labels = sheet.shorten(names)
    ax.set_yticks(range(len(names)), labels)
    ax.set_ylim(len(names) - 0.5, -0.5)
    kind = rows[0].loss_kind
    known = any(row.low is not None for row in rows)
    note = "\nline: 95% interval; hollow: within the noise" if known else ""
    ax.set_xlabel(fill_below(sheet, labels, f"Difference in {kind} (nats per token){note}"))
    if len(models) > 1:
        sizes = {row.model: row.params for row in reversed(rows)}
        _name_sizes(ax, {model: sizes[model] for model in models}, colour_of, sheet)


def _name_sizes(ax: Axes, sizes: dict[str, int], colour_of: dict[str, Any], sheet: Sheet) -> None:
    """Add a legend of the models beside a panel or, on a narrow sheet, above it."""
    names = [f"{model} ({format_count(size)})" for model, size in sizes.items()]
    labels = sheet.shorten(names, None if sheet.is_narrow else IN_PANEL)
    handles = [
        sample(label, color=colour_of[model], marker="o")
        for model, label in zip(sizes, labels, strict=True)
    ]
    if not sheet.is_narrow:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return
    ax.legend(
        handles=handles, ncols=2 if max(map(len, labels)) <= IN_COLUMN else 1,
        # The title, of up to two lines, is in between.
        loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=4.0,
    )  # fmt: skip


def _label_log_x(ax: Axes, values: Sequence[float], label: str) -> None:
    ax.set(xscale="log", xlabel=label)
    if len(set(values)) == 1:
        ax.set_xlim(values[0] / 2, values[0] * 2)
    label_log_axis(ax.xaxis, most=5)


DRAW: dict[str, Callable[[Any, Sheet], Figure]] = {
    "learning_rate": _draw_learning_rates,
    "isoflop": _draw_isoflops,
    "tokens_per_parameter": _draw_lengths,
    "ablations": _draw_differences,
}
"""Name of an analysis -> the function that draws its fits."""
