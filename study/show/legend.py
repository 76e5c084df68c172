"""Legends: one for all panels of a figure, with a section for each thing that the look shows."""

import textwrap
from collections.abc import Sequence
from itertools import chain
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.formats import format_count
from study.grid import Cell
from study.kinds import kinds_heading, name_kind
from study.show.sheets import SHEETS, Sheet, cut_middle
from study.show.style import Style

LEGEND_LINE = 0.16
"""Height of a line of the legend, inches."""

LETTERS = 44
"""Most letters of the longest names in two columns of a legend below the panels, together, on a
narrow sheet."""

NARROW_WIDTH = SHEETS[1].width

LETTER, LABEL_LETTER, TITLE_LETTER = 0.053, 0.061, 0.066
"""Mean width of a letter in the legend, in labels of axes and in titles, inches."""

LEGEND_KEY = 0.45
"""Width of the legend beside its names, inches."""

NARROWEST = 1.5
"""Least width of a panel beside the legend, inches; with less, the legend is below the panels."""

MARGINS = 0.3
"""Beside a panel and the names of its lines, inches."""

AXIS_LABELS = 0.6
"""Width of the vertical axis's labels, inches."""


def legend_sections(
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
            sample(f"{name} ({format_count(size)})", color=style.colours[name], linewidth=2.5)
            for name, size in style.sizes.items()
            if name in models
        ]
    }
    if counts:
        sections["GPU count"] = [
            sample(str(count), linestyle=look, linewidth=style.width(count))
            for count, look in style.lines.items()
            if count in {cell.gpus for cell in cells}
        ]
    kinds = {cell.variant: cell for cell in cells}
    if not models_only and kinds.keys() != {"base"}:
        sections[kinds_heading(cells)] = [
            _kind_sample(style, kinds[name], lines) for name in style.markers if name in kinds
        ]
    sections["Also"] = list(extra)
    return {title: members for title, members in sections.items() if members}


def _kind_sample(style: Style, cell: Cell, lines: bool) -> Line2D:
    """Return the marker of a variant and, in figures over GPU counts, its trainer's line style."""
    is_base, with_trainer = cell.variant == "base", len(style.trainers) > 1
    return sample(
        name_kind(cell, with_trainer),
        marker="" if lines and is_base else style.markers[cell.variant],
        linestyle="-" if lines else style.trainers[cell.trainer] if with_trainer else "",
        mfc=None if lines or is_base else "none",
    )


def add_legend(figure: Figure, sheet: Sheet, sections: dict[str, list[Line2D]]) -> None:
    """Add one legend: beside the panels, or below them, in two columns if the names leave room.

    Titles of the panels that are too long for what is left of their width are divided.
    """
    members = list(chain(*sections.values()))
    labels = sheet.shorten(str(member.get_label()) for member in members)
    for member, label in zip(members, labels, strict=True):
        member.set_label(label)
    panels = len({round(ax.get_position().x0, 3) for ax in figure.axes})  # side by side
    beside = LEGEND_KEY + LETTER * max(map(len, [*labels, *sections]))
    is_below = sheet.is_narrow or (sheet.width - beside) / panels < NARROWEST
    columns = _columns(sections, 2 if is_below else 1)
    letters = sum(max(len(str(member.get_label())) for member in column) for column in columns)
    if letters > LETTERS * sheet.width / NARROW_WIDTH:
        columns = _columns(sections, 1)
    lines = max(map(len, columns))
    handles = [handle for column in columns for handle in [*column, *[_blank()] * lines][:lines]]
    width, height = figure.get_size_inches()
    needed = LEGEND_LINE * (lines + 1)
    figure.set_size_inches(width, height + needed if is_below else max(height, needed))
    if is_below:
        _label_panels(figure)
    where: Any = "outside lower center" if is_below else "outside right upper"
    legend = figure.legend(handles=handles, loc=where, ncols=len(columns))
    for text in legend.get_texts():
        if text.get_text() in sections:
            text.set_fontweight("bold")
    room = (sheet.width - (0.0 if is_below else beside) - AXIS_LABELS) / panels
    for ax in figure.axes:
        ax.set_title(_divide(ax.get_title(loc="left"), int(room / TITLE_LETTER)))


def fill_below(sheet: Sheet, names: Sequence[str], text: str) -> str:
    """Return the label below a panel, in lines that end within the sheet; `names` are beside it."""
    room = sheet.width - LETTER * max(map(len, names)) - MARGINS
    lines = (textwrap.wrap(line, int(room / LABEL_LETTER)) for line in text.splitlines())
    return "\n".join(chain(*lines))


def _label_panels(figure: Figure) -> None:
    """Put the labels of all panels together at the outer panels: the legend has their place."""
    x_label, y_label = figure.get_supxlabel(), figure.get_supylabel()
    figure.supxlabel("")
    figure.supylabel("")
    places = [ax.get_subplotspec() for ax in figure.axes]
    for ax, place in zip(figure.axes, places, strict=True):
        if place is not None and place.is_first_col() and y_label:
            ax.set_ylabel(y_label)
        if place is not None and place.is_last_row() and x_label:
            ax.set_xlabel(x_label)


def _divide(title: str, most: int) -> str:
    """Return a title; if it has more letters, its note in brackets is on a line of its own."""
    if len(title) <= most or title.count("\n"):
        return title
    name, bracket, note = title.partition(" (")
    lines = [name, f"({note}"] if bracket else [name]
    return "\n".join(cut_middle(line, max(most, 8)) for line in lines)


def _columns(sections: dict[str, list[Line2D]], count: int) -> list[list[Line2D]]:
    """Return up to `count` columns of about equal length, of the sections with their titles."""
    columns: list[list[Line2D]] = [[] for _ in range(count)]
    for title, members in sections.items():
        column = min(columns, key=len)  # a section is not divided
        column += [*([_blank()] if column else []), sample(title, linestyle=""), *members]
    return [column for column in columns if column]


def _blank() -> Line2D:
    return sample("", linestyle="")


def sample(label: str, **look: Any) -> Line2D:
    """Return a line for the legend; with a marker and no line style, the marker alone."""
    look.setdefault("linestyle", "" if "marker" in look else "-")
    return Line2D([], [], **{"color": "#444444", "label": label, **look})
