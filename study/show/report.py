"""The report: one self-contained HTML page with tables, figures and how to read them."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from study.analysis.catalogue import ANALYSES, read_tables
from study.analysis.series import find_analyses
from study.estimate import calibration, time_table
from study.estimate.backtest import ScoredPrediction, readable_backtest
from study.estimate.calibration import Check
from study.estimate.estimate import Estimate
from study.grid import Cell, Grid
from study.measure import throughput
from study.measure.logs import is_stale, read_failure, read_summary
from study.show.plan import find_state
from trainer.records import RunSummary

TEMPLATES = Path(__file__).parent / "templates"

FIGURES = {
    "loss_vs_tokens": "Loss against tokens",
    "loss_vs_time": "Loss against wall-clock time",
    "throughput": "Throughput against GPU count",
    "scaling_efficiency": "Scaling efficiency against GPU count",
}
"""File name without suffix -> caption, for the figures of the report."""


@dataclass(frozen=True)
class Table:
    """A table for the page."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def classes(self) -> list[str]:
        """A CSS class for each column: numbers are right-aligned."""
        columns = zip(*self.rows, strict=True)
        return ["number" if throughput.is_numeric(column) else "" for column in columns]


@dataclass(frozen=True)
class Figure:
    """A figure for the page."""

    caption: str
    uri: str
    """The image as a data URI: inline SVGs on one page would share their ids."""


@dataclass(frozen=True)
class Section:
    """An analysis on the page."""

    title: str
    loss: str
    explanation: str
    tables: Sequence[Table]
    figure: Figure | None


def render_report(
    grid: Grid,
    table: pd.DataFrame,
    estimates: Sequence[Estimate],
    checks: Sequence[Check],
    backtest: Sequence[ScoredPrediction],
    figures: Path,
    analyses: Path,
) -> str:
    """Return the page for the tables, a folder of figures and one with the analyses' tables.

    The same input gives the same page. Missing figures and tables are listed on it.
    """
    asked = find_analyses(grid)
    sections = {name: _section(name, analyses, figures) for name in asked}
    runs = [(cell, read_summary(cell.folder)) for cell in grid.measured]
    states = [(cell, *find_state(cell, summary)) for cell, summary in runs]
    missing = [_missing(*item) for item in states if item[1] != "measured"]
    estimate_only = [cell.name for cell in grid if not cell.measure]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(
        study=grid.study.study,
        cells=len(grid.measured),
        measured=len(states) - len(missing),
        facts=_facts([run for cell, run in runs if run is not None and not is_stale(cell, run)]),
        estimates=[
            Table(*time_table.readable_estimates(rows))
            for rows in time_table.by_horizon(estimates).values()
        ],
        checks=Table(*calibration.readable_checks(checks)),
        backtest=Table(*readable_backtest(backtest)),
        throughput=Table(*throughput.readable_throughput(table)),
        other_versions=bool(throughput.other_versions(table)),
        notes=throughput.notes(table),
        figures=[
            _read_figure(figures, name, caption)
            for name, caption in FIGURES.items()
            if _path(figures, name).exists()
        ],
        sections=[section for section in sections.values() if section is not None],
        absent=[
            *(f"{name}.svg" for name in FIGURES if not _path(figures, name).exists()),
            *(f"{name}.csv" for name, section in sections.items() if section is None),
        ],
        missing=missing,
        estimate_only=estimate_only,
        peaks=[(name, config.gpu_name, config.peak_tflops) for name, config in _clusters(grid)],
    )


def _clusters(grid: Grid) -> list[tuple[str, Any]]:
    return list({cell.cluster: cell.cluster_config for cell in grid}.items())


def _facts(runs: Sequence[RunSummary]) -> list[tuple[str, str]]:
    """Return the hosts, processors and software of the runs, each distinct value once."""

    def versions(run: RunSummary) -> Iterable[str | None]:
        named = {"Python": run.versions.python, "torch": run.versions.torch}
        named |= {"CUDA": run.versions.cuda}
        return [f"{name} {version}" for name, version in named.items() if version]

    values: dict[str, list[Iterable[str | None]]] = {
        "Hosts": [run.hosts for run in runs],
        "Processors": [[run.gpu_name] for run in runs],
        "Software": [versions(run) for run in runs],
        "Commit": [[run.commit] for run in runs],
        "Trainer version": [[run.trainer_version] for run in runs],
    }
    facts = []
    for name, lists in values.items():
        distinct = dict.fromkeys(value for items in lists for value in items if value)
        facts.append((name, ", ".join(distinct) or "not known"))
    ends = [run.attempts[-1].end or run.attempts[-1].start for run in runs]
    return [*facts, ("Last run", max(ends, default="none yet"))]


def _missing(cell: Cell, state: str, detail: str) -> tuple[str, str, str]:
    """Return the name of a cell without a measurement, its state, and why its run failed."""
    failure = None if state == "stale" else read_failure(cell.folder)
    if failure is None:
        return cell.name, state, detail
    return cell.name, "failed", "; ".join(filter(None, [detail, failure.message]))


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.svg"


def _section(name: str, tables: Path, figures: Path) -> Section | None:
    """Return the section of an analysis; None if a table of it does not exist."""
    analysis = ANALYSES[name]
    if not all((tables / f"{table}.csv").exists() for table in analysis.tables):
        return None
    loss, found = read_tables(name, tables)
    figure = None
    if _path(figures, name).exists():
        figure = _read_figure(figures, name, analysis.title)
    return Section(
        analysis.title, loss, analysis.explanation, [Table(*table) for table in found], figure
    )


def _read_figure(folder: Path, name: str, caption: str) -> Figure:
    content = base64.b64encode(_path(folder, name).read_bytes()).decode()
    return Figure(caption, f"data:image/svg+xml;base64,{content}")
