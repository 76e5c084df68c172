"""A comparison for people: Markdown, and a figure of the ratios with their noise."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from study.formats import format_known
from study.markdown import markdown_table
from study.measure.comparison import Difference, Side, unshared
from study.measure.interval import CONFIDENCE
from study.measure.repeats import BETWEEN_RUNS
from study.sequences import group_by
from study.show.legend import fill_below
from study.show.sheets import Sheet, write_figure
from study.show.style import IDEAL, PALETTE

ALL = "all cells"
"""Name of the row with the mean of a side's cells."""

MOST_LABELS = 60
"""Most cells that a figure names, one below the other."""

MOST_NAMED = 5
"""Most cells that a line names."""

MOST_NOTES = 20
"""Most lines of what differs; the CSV has all."""


def to_markdown(
    base: Side, others: Sequence[Side], differences: Sequence[Difference], by: str | None
) -> str:
    """Return what was compared, a table for each side, and what only one of two sides has."""
    lines = [f"base: {base.name} ({base.ran})"]
    for other in others:
        rows = [row for row in differences if row.other == other.name]
        if not rows:
            lines += ["", f"note: {other.name} ({other.ran}) shares no cell with {base.name}"]
            continue
        known = any(row.loss_difference is not None for row in rows)
        kind = f" (loss: {rows[0].loss_kind})" if known else ""
        lines += ["", f"{other.name} ({other.ran}), against the base{kind}", "", _table(rows)]
        lines += _notes(rows)
        for name, cells in unshared(base, other, by).items():
            if cells:
                lines += ["", f"only in {name}: {_some(cells)}"]
    return "\n".join([*lines, "", _explain(differences), ""])


def _notes(rows: Sequence[Difference]) -> list[str]:
    """Return what differs besides what is compared: the notes of the same cells in one line."""
    cells: dict[str, list[str]] = {}
    for row in rows:
        for note in row.note.split("; ") if row.note else []:
            cells.setdefault(note, []).append(row.cell)
    alike = group_by(cells, lambda note: tuple(cells[note]))
    count = sum(1 for row in rows if row.cell)
    lines = [
        f"note: {'; '.join(notes)}" + ("" if len(names) == count else f" ({_some(names)})")
        for names, notes in alike.items()
    ]
    rest = len(lines) - MOST_NOTES
    lines = [*lines[:MOST_NOTES], *([f"note: and {rest} more of other cells"] if rest > 0 else [])]
    return [text for line in lines for text in ("", line)]


def _some(cells: Sequence[str]) -> str:
    rest = len(cells) - MOST_NAMED
    return ", ".join(cells[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _explain(differences: Sequence[Difference]) -> str:
    """Return what the columns mean, and what the noise rests on."""
    speed = max(row.speed_degrees for row in differences if row.cell)
    loss = max(row.loss_degrees for row in differences if row.cell)
    rate = f"{1 / (1 - CONFIDENCE):.0f}"
    lines = [
        "Speed: tokens/s/GPU, the geometric mean over seeds. A difference within the noise is",
        f'"same": if nothing has changed, one table in {rate} has a cell outside it, and one in',
        f"{rate} all cells together. The noise is that of cells which were run with several seeds.",
        f"For the speed they leave {speed} degrees of freedom."
        if speed
        else "For a cell's speed they are too few: its noise is assumed, from them and from "
        f"{BETWEEN_RUNS:.0%} between runs, and gives no verdict.",
        f"For the loss they leave {loss}." if loss else "For a cell's loss they are too few.",
    ]
    return " ".join(lines)


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
        format_known(row.speed_ratio, "x{:.3f}".format),
        f"{row.speed_noise:.1%}{'' if row.speed_degrees else ' assumed'}",
        row.speed,
        format_known(row.memory_ratio, "x{:.3f}".format),
        _two(row.base_loss, row.other_loss, "{:.4f}"),
        format_known(row.loss_difference, "{:+.4f}".format),
        format_known(row.loss_noise, "{:.4f}".format),
        row.loss,
    ]


def _two(base: float | None, other: float | None, form: str) -> str:
    known = base is not None and other is not None
    return f"{form.format(base)}, {form.format(other)}" if known else ""


def plot(differences: Sequence[Difference], path: Path) -> list[Path]:
    """Draw the speed ratio of each cell, with the noise as a bar; return the files written.

    `path` has no suffix: the figure is written in all forms.
    """
    return write_figure(path, partial(_draw, differences))


def _draw(differences: Sequence[Difference], sheet: Sheet) -> Figure:
    cells = list(dict.fromkeys(row.cell for row in differences if row.cell))
    places = {name: place for place, name in enumerate([*cells, ""])}
    others = list(dict.fromkeys(row.other for row in differences))
    sides = [*others, differences[0].base]
    short = dict(zip(sides, sheet.shorten(sides), strict=True))
    figure = Figure(figsize=(sheet.width, 1.2 + 0.2 * min(len(places), MOST_LABELS)))
    ax = figure.subplots()
    ax.axvline(1, color=IDEAL, linewidth=1)
    for index, other in enumerate(others):
        rows = [row for row in differences if row.other == other]
        shift = 0.5 * ((index + 0.5) / len(others) - 0.5)
        heights = [places[row.cell] + shift for row in rows]
        values = [row.speed_ratio for row in rows]
        noise = [row.speed_ratio * row.speed_noise for row in rows]
        colour = PALETTE[index % len(PALETTE)]
        ax.errorbar(
            values, heights, xerr=noise, fmt="o", color=colour, markersize=4, linewidth=1.2,
            label=short[other],
        )  # fmt: skip
    named = places if len(places) <= MOST_LABELS else {"": len(places) - 1}
    labels = sheet.shorten(name or ALL for name in named)
    ax.set_yticks(list(named.values()), labels)
    ax.set_ylim(len(places) - 0.4, -0.6)
    whose = f" of {short[others[0]]}" if len(others) == 1 else ""
    assumed = "" if any(row.speed_degrees for row in differences if row.cell) else ", assumed"
    text = f"Speed{whose}, as a multiple of {short[sides[-1]]}'s; bars: the noise{assumed}"
    ax.set_xlabel(fill_below(sheet, labels, text))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"x{value:.3g}"))
    if len(others) > 1:
        figure.legend(loc="outside lower center", ncols=1 if sheet.is_narrow else 2)
    return figure
