"""The figure of a scaling law: the trained models, and the law fitted to them."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.formats import format_count
from study.law.scaling_law_table import Fit
from study.show.sheets import Sheet, label_log_axis, write_figure
from study.show.style import PALETTE, colours

BEYOND = 100
"""Range of the right panel, in multiples of the largest run's compute."""


def plot_scaling_law(fit: Fit, folder: Path) -> list[Path]:
    """Draw loss against tokens, and the compute-optimal size; return the files written.

    Writes scaling_law to `folder`, in all forms.
    """

    def draw(sheet: Sheet) -> Figure:
        shape = (2, 1) if sheet.is_narrow else (1, 2)
        figure = Figure(figsize=(sheet.width, 5.4 if sheet.is_narrow else 3.0))
        left, right = figure.subplots(*shape)
        _draw_losses(left, fit)
        _draw_optimum(right, fit)
        return figure

    return write_figure(folder / "scaling_law", draw)


def _draw_losses(ax: Axes, fit: Fit) -> None:
    """Draw each run, and the law at each model size."""
    sizes = sorted({run.params for run in fit.runs})
    few = len(sizes) <= len(PALETTE)
    colour_of = colours(sizes)
    tokens = np.array([run.tokens for run in fit.runs])
    line = np.geomspace(tokens.min(), tokens.max(), 80)
    for size in sizes:
        here = [run for run in fit.runs if run.params == size]
        label = f"{format_count(size)} parameters" if few else None
        ax.plot(
            [run.tokens for run in here], [run.loss for run in here], "o",
            color=colour_of[size], markersize=4, label=label,
        )  # fmt: skip
        if few:
            losses = [fit.law.loss(size, d) for d in line]
            ax.plot(line, losses, color=colour_of[size], linewidth=1.2)
    label = f"{fit.what.capitalize()} (nats per token)"
    ax.set(xscale="log", yscale="log", xlabel="Tokens", ylabel=label)
    ax.set_title("Runs, and the law of each size" if few else "Runs, by size from dark to light")
    label_log_axis(ax.xaxis, most=5)
    label_log_axis(ax.yaxis)
    if few:
        ax.legend()


def _draw_optimum(ax: Axes, fit: Fit) -> None:
    """Draw the compute-optimal size against compute, with the bootstrap's 80% interval."""
    flops = np.array([run.flops for run in fit.runs])
    budgets = np.geomspace(flops.min(), BEYOND * flops.max(), 60)
    drawn = [[law.optimum(budget)[0] for budget in budgets] for law in fit.resampled]
    low, high = np.quantile(drawn, (0.1, 0.9), axis=0)
    colour = PALETTE[0]
    ax.fill_between(budgets, low, high, color=colour, alpha=0.18, linewidth=0, label="80% interval")
    best = [fit.law.optimum(budget)[0] for budget in budgets]
    ax.plot(budgets, best, color=colour, label="compute-optimal")
    ax.plot(
        flops, [run.params for run in fit.runs], "o", color="#555555", markersize=3.5, label="runs"
    )
    ax.set(xscale="log", yscale="log", xlabel="Training FLOPs, 6 N D", ylabel="Parameters")
    ax.set_title("Compute-optimal size")
    label_log_axis(ax.xaxis, most=5)
    label_log_axis(ax.yaxis)
    ax.legend()
