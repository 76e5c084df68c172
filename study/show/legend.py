"""Legends: one for all panels of a figure, with a section for each thing that the look shows."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.formats import format_count
from study.grid import Cell
from study.kinds import kinds_heading, name_kind
from study.show.sheets import Sheet
from study.show.style import Style

LEGEND_LINE = 0.16
"""Height of a line of the legend, inches."""

LETTERS = 44
"""Most letters of the longest names in two columns of a legend below the panels, together."""


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
    """Add one legend: beside the panels, or below them, in two columns if the names leave room."""
    for member in chain(*sections.values()):
        member.set_label(sheet.shorten(str(member.get_label())))
    columns = _columns(sections, 2 if sheet.is_narrow else 1)
    if sum(max(len(str(member.get_label())) for member in column) for column in columns) > LETTERS:
        columns = _columns(sections, 1)
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
