"""What the report shows of analyses and of a scaling law, if their tables exist."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.analysis.catalogue import ANALYSES, read_tables
from study.csv_tables import read_csv
from study.show.report_tables import Table, make_table

LAW = "scaling_law"
"""Name of the table and the figure of a scaling law, which is fitted only on request."""


@dataclass(frozen=True)
class Figure:
    """A figure for the page."""

    caption: str
    uri: str
    """The image as a data URI: inline SVGs on one page would share their ids."""
    narrow_uri: str | None
    """That of one column, for narrow screens; None if there is none."""


@dataclass(frozen=True)
class Section:
    """An analysis on the page."""

    name: str
    title: str
    loss: str
    explanation: str
    tables: Sequence[Table]
    figure: Figure | None


def find_section(name: str, tables: Path, figures: Path) -> Section | None:
    """Return the section of an analysis; None if a table of it does not exist."""
    analysis = ANALYSES[name]
    if not all((tables / f"{table}.csv").exists() for table in analysis.tables):
        return None
    loss, found = read_tables(name, tables)
    made = [make_table(analysis.title, table) for table in found]
    figure = _find_figure(figures, name, analysis.title)
    return Section(name, analysis.title, loss, analysis.explanation, made, figure)


def find_law(tables: Path, figures: Path) -> tuple[Table, Figure | None] | None:
    """Return the table and the figure of the scaling law; None if none was fitted."""
    path = tables / f"{LAW}.csv"
    if not path.exists():
        return None
    found = read_csv(path)
    rows = [[row.cells.get(name, "") for name in found.columns] for row in found.rows]
    headings = [name.replace("_", " ").capitalize() for name in found.columns]
    figure = _find_figure(figures, LAW, "Scaling law")
    return make_table("Coefficients of the scaling law", (headings, rows)), figure


def _find_figure(folder: Path, name: str, caption: str) -> Figure | None:
    wide, narrow = (_read_image(folder / f"{name}{ending}.svg") for ending in ("", "_column"))
    return None if wide is None else Figure(caption, wide, narrow)


def _read_image(path: Path) -> str | None:
    """Return an SVG as a data URI; None if there is none."""
    if not path.exists():
        return None
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
