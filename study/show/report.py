"""The report: one self-contained HTML page with charts, tables and how to read them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from study.analysis.series import find_analyses
from study.estimate import calibration, time_table
from study.estimate.accuracy import Accuracy
from study.estimate.backtest import readable_backtest
from study.estimate.estimate import Estimate
from study.formats import format_amount, format_moment
from study.grid import Cell, Grid
from study.kinds import kinds_heading, names_trainers
from study.measure import throughput_table
from study.measure.run_files import each_run
from study.measure.summaries import is_stale
from study.measure.throughput_row import ThroughputRow
from study.measure.time_by_part import PARTS
from study.show import report_tables
from study.show.report_data import chart_data, prediction_points
from study.show.report_runs import Missing, describe_runs, find_missing
from study.show.report_sections import find_law, find_section
from study.show.report_summary import build_matrix, describe_findings, describe_request
from study.show.report_tables import make_table
from trainer.folder.run_file import find_summary
from trainer.records import RunSummary

TEMPLATES = Path(__file__).parent / "templates"


def render_report(
    grid: Grid,
    table: pd.DataFrame,
    estimates: Sequence[Estimate],
    accuracy: Accuracy,
    figures: Path,
    analyses: Path,
) -> str:
    """Return the page for the tables, a folder of figures and one with the analyses' tables.

    The same input gives the same page. Missing tables of analyses are listed on it.
    """
    summaries = {cell.name: find_summary(cell.folder) for cell in grid.measured}
    rows = _rows(grid, table)
    known = {cell.name for cell, _ in rows}
    missing = {
        cell.name: found
        for cell in grid.measured
        if (found := find_missing(cell, summaries[cell.name], cell.name in known)) is not None
    }
    return (
        _environment()
        .get_template("report.html")
        .render(
            study=grid.study.study,
            asked=describe_request(grid),
            findings=describe_findings(rows, len({cell.gpus for cell in grid}) > 1),
            matrix=build_matrix(grid, rows, _states(grid, missing)),
            kinds=kinds_heading(grid, plural=True),
            **_counts(grid, missing),
            **_tables(table, estimates, accuracy),
            **_analyses(grid, analyses, figures),
            **_provenance(grid, summaries, rows),
            parts=PARTS,
            predicted=_ways(accuracy),
            data=chart_data(grid, each_run(grid), rows, prediction_points(accuracy)),
        )
    )


def _counts(grid: Grid, missing: Mapping[str, Missing]) -> dict[str, Any]:
    """Return how many cells are to be measured and were, and which were not."""
    diverged = sum(item.state == "diverged" for item in missing.values())
    return {
        "cells": len(grid.measured),
        "measured": len(grid.measured) - len(missing) + diverged,
        "missing": list(missing.values()),
        "estimate_only": [cell.name for cell in grid if not cell.measure],
    }


def _analyses(grid: Grid, tables: Path, figures: Path) -> dict[str, Any]:
    """Return the sections of the analyses and of a scaling law, and which tables are missing."""
    sections = {name: find_section(name, tables, figures) for name in find_analyses(grid)}
    return {
        "sections": [section for section in sections.values() if section is not None],
        "absent": [f"{name}.csv" for name, section in sections.items() if section is None],
        "law": find_law(tables, figures),
    }


def _provenance(
    grid: Grid,
    summaries: Mapping[str, RunSummary | None],
    rows: Sequence[tuple[Cell, ThroughputRow]],
) -> dict[str, Any]:
    """Return how the runs were made, on what, and which peaks their MFU is of."""
    current = _current(grid, summaries)
    speeds = {cell.name: row.tokens_per_s for cell, row in rows}
    base, runs = describe_runs(grid, summaries, speeds)
    clusters = {cell.cluster: cell.cluster_config for cell in grid}
    return {
        "facts": _facts(list(current.values()), _trainers(grid, current)),
        "peaks": [(name, it.gpu_name, it.peak_tflops) for name, it in clusters.items()],
        "base": base,
        "runs": runs,
    }


def _tables(
    table: pd.DataFrame, estimates: Sequence[Estimate], accuracy: Accuracy
) -> dict[str, Any]:
    """Return the tables of the page, and the notes below that of the measurements."""
    return {
        "estimates": [
            make_table(
                f"Time of {horizon or 'the runs'}",
                time_table.readable_estimates(items),
                report_tables.estimate_definitions(horizon or "Run"),
            )
            for horizon, items in time_table.by_horizon(estimates).items()
        ],
        "checks": make_table(
            "Accuracy of the estimates",
            calibration.readable_checks(accuracy.checks),
            report_tables.check_definitions(),
        ),
        "backtest": make_table(
            "Predictions made before the runs",
            readable_backtest(accuracy.backtest),
            report_tables.backtest_definitions(),
        ),
        "throughput": make_table(
            "Throughput",
            throughput_table.readable_throughput(table),
            report_tables.throughput_definitions(),
        ),
        "notes": throughput_table.notes(table),
        "above_peak": throughput_table.note_on_impossible(table),
        "mark_of": throughput_table.mark_of,
    }


def _ways(accuracy: Accuracy) -> list[str]:
    """Return in which ways step times were predicted."""
    ways = {
        "before the runs": accuracy.backtest,
        "each from the other measured configurations": accuracy.left_out,
    }
    return [way for way, predictions in ways.items() if predictions]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals["asset"] = _asset
    return environment


def _asset(name: str) -> Markup:
    """Return a style sheet or a script of ours, to be embedded as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _current(grid: Grid, found: Mapping[str, RunSummary | None]) -> dict[str, RunSummary]:
    """Return name of a cell -> its run, of runs with the cell's current settings."""
    runs = {cell.name: (cell, found[cell.name]) for cell in grid.measured}
    return {name: run for name, (cell, run) in runs.items() if run and not is_stale(cell, run)}


def _rows(grid: Grid, table: pd.DataFrame) -> list[tuple[Cell, ThroughputRow]]:
    """Return the rows of the throughput table with their cells."""
    rows = [ThroughputRow(**values) for values in throughput_table.plain_rows(table)]
    named = [(grid.by_name.get(row.cell_name), row) for row in rows]
    return [(cell, row) for cell, row in named if cell is not None]


def _states(grid: Grid, missing: Mapping[str, Missing]) -> dict[str, str]:
    """Return name of a cell -> why it has no speed."""
    only = {cell.name: "estimated only" for cell in grid if not cell.measure}
    return only | {name: item.state for name, item in missing.items()}


def _trainers(grid: Grid, current: Mapping[str, RunSummary]) -> list[str]:
    """Return the version of each run's trainer, with its name if there are others than ours."""
    with_name = names_trainers(grid)
    return [
        f"{cell.trainer} {run.trainer_version}" if with_name else run.trainer_version
        for cell in grid
        if (run := current.get(cell.name)) is not None and run.trainer_version
    ]


def _facts(runs: Sequence[RunSummary], trainers: Sequence[str]) -> list[tuple[str, str]]:
    """Return when the runs were made, on what, and with which software; each value once.

    `trainers`: versions of the trainers.
    """

    def versions(run: RunSummary) -> Iterable[str | None]:
        named = {"Python": run.versions.python, "torch": run.versions.torch}
        named |= {"CUDA": run.versions.cuda}
        return [f"{name} {version}" for name, version in named.items() if version]

    values: dict[str, list[Iterable[str | None]]] = {
        "Processors": [[run.gpu_name] for run in runs],
        "Hosts": [run.hosts for run in runs],
        "Software": [versions(run) for run in runs],
        "Commit": [[run.commit] for run in runs],
        "Trainer version": [trainers],
    }
    facts = []
    for name, lists in values.items():
        distinct = dict.fromkeys(value for items in lists for value in items if value)
        facts.append((name, ", ".join(distinct) or "not known"))
    starts = [run.attempts[0].start for run in runs]
    ends = [run.attempts[-1].end or run.attempts[-1].start for run in runs]
    hours = sum(
        (item.wall_s or 0) * (item.gpus or run.gpus or 1) for run in runs for item in run.attempts
    )
    when = (
        [("First run", format_moment(min(starts))), ("Last run", format_moment(max(ends)))]
        if runs
        else []
    )
    spent = [("GPU-hours", format_amount(hours / 3600))] if hours else []
    return [*(when or [("Last run", "none yet")]), *spent, *facts]
