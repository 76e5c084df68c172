"""A comparison for people: Markdown, and a figure of the ratios with their noise."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from study.markdown import markdown_table
from study.measure.comparison import CONFIDENCE, Difference, Side, unshared
from study.show.sheets import Sheet, write_figure
from study.show.style import IDEAL, PALETTE

ALL = "all cells"
"""Name of the row with the mean of a side's cells."""

MOST_LABELS = 60
"""Most cells that a figure names, one below the other."""

MOST_MISSING = 5
"""Most cells that are named as missing on one side."""


def to_markdown(
    base: Side, others: Sequence[Side], differences: Sequence[Difference], by: str | None
) -> str:
    """Return what was compared, a table for each side, and what only one of two sides has."""
    lines = [f"base: {base.name} ({base.ran})"]
    for other in others:
        rows = [row for row in differences if row.other == other.name]
        lines += ["", f"{other.name} ({other.ran}), against the base", "", _table(rows)]
        for name, cells in unshared(base, other, by).items():
            if cells:
                some = ", ".join(cells[:MOST_MISSING])
                rest = len(cells) - MOST_MISSING
                lines += ["", f"only in {name}: {some}{f' and {rest} more' if rest > 0 else ''}"]
    note = (
        "Speed: tokens/s/GPU, the geometric mean over seeds. A difference within the noise is "
        f'"same": outside it lies one comparison in {1 / (1 - CONFIDENCE):.0f} if nothing has '
        "changed. The noise is the spread of cells that were run with several seeds; for speed, 2% "
        "count as one more pair, and the loss has none without them."
    )
    return "\n".join([*lines, "", note, ""])


def _table(rows: Sequence[Difference]) -> str:
    headings = ["Cell", "Runs", "Tokens/s/GPU", "Ratio", "Noise", "Speed is", "Memory"]
    headings += ["Loss (nats)", "Difference", "Noise", "Loss is"]
    align = ["left", *["right"] * 4, "left", *["right"] * 4, "left"]
    return markdown_table(headings, [_cells(row) for row in rows], align)


def _cells(row: Difference) -> list[str]:
    return [
        row.cell or ALL,
        row.runs,
        _two(row.base_speed, row.other_speed, "{:,.0f}"),
        _ratio(row.speed_ratio),
        "" if row.speed_noise is None else f"{row.speed_noise:.1%}",
        row.speed,
        _ratio(row.memory_ratio),
        _two(row.base_loss, row.other_loss, "{:.4f}"),
        "" if row.loss_difference is None else f"{row.loss_difference:+.4f}",
        "" if row.loss_noise is None else f"{row.loss_noise:.4f}",
        row.loss,
    ]


def _two(base: float | None, other: float | None, form: str) -> str:
    known = base is not None and other is not None
    return f"{form.format(base)}, {form.format(other)}" if known else ""


def _ratio(value: float | None) -> str:
    return "" if value is None else f"x{value:.3f}"


def plot(differences: Sequence[Difference], path: Path) -> list[Path]:
    """Draw the speed ratio of each cell, with the noise as a bar; return the files written.

    `path` has no suffix: the figure is written in all forms.
    """
    return write_figure(path, partial(_draw, differences))


def _draw(differences: Sequence[Difference], sheet: Sheet) -> Figure:
    cells = list(dict.fromkeys(row.cell for row in differences if row.cell))
    names = [*cells, ""]
    others = list(dict.fromkeys(row.other for row in differences))
    figure = Figure(figsize=(sheet.width, 1.2 + 0.2 * min(len(names), MOST_LABELS)))
    ax = figure.subplots()
    ax.axvline(1, color=IDEAL, linewidth=1)
    for index, other in enumerate(others):
        rows = [row for row in differences if row.other == other]
        shift = 0.5 * ((index + 0.5) / len(others) - 0.5)
        heights = [names.index(row.cell) + shift for row in rows]
        values = [row.speed_ratio or 1.0 for row in rows]
        noise = [(row.speed_ratio or 1.0) * (row.speed_noise or 0.0) for row in rows]
        colour = PALETTE[index % len(PALETTE)]
        ax.errorbar(
            values, heights, xerr=noise, fmt="o", color=colour, markersize=4, linewidth=1.2,
            label=other,
        )  # fmt: skip
    if len(names) <= MOST_LABELS:
        ax.set_yticks(range(len(names)), [name or ALL for name in names])
    else:
        ax.set_yticks([len(names) - 1], [ALL])
    ax.set_ylim(len(names) - 0.4, -0.6)
    whose = f" of {others[0]}" if len(others) == 1 else ""
    between = "\n" if sheet.is_narrow else " "
    ax.set_xlabel(
        f"Speed{whose},{between}as a multiple of {differences[0].base}'s; bars: the noise"
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"x{value:.3g}"))
    if len(others) > 1:
        figure.legend(loc="outside lower center", ncols=1 if sheet.is_narrow else 2)
    return figure
